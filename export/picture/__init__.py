"""One image on its way through a model, drawn: what each branch sees, and how both decide."""
