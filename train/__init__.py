"""Images in class folders -> a trained Keras model in a run folder."""
