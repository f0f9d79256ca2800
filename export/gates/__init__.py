"""Every variant against Keras: on which images, what differs, what is still the same model, how fast."""
