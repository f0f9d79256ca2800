"""Draws one image on its way through a model: what each branch sees, and how both decide.

In come an image file and a Keras model; out come a PNG and one line with the model's answer. This room must not know
bundles, ONNX or gates: it draws the Keras model alone.
"""
