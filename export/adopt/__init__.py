"""Adopt: somebody else's model file becomes a Keras model in our shape, with the spec that describes it.

In comes a ``.keras``, an ``.h5`` or a SavedModel that ``hybrid-train`` did not write; nothing of the file runs. What is
in it is checked before TensorFlow is imported, and built from Keras's own layers alone.
"""
