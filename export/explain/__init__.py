"""Explain: draws one image on its way through a Keras model, and ranks layers by how sensitive they are to INT8.

In come an image file or images to calibrate on, and a model; out come a PNG and a line of text, or a table, a plot, CSV
and JSON. This room writes nothing into a bundle, and judges no variant.
"""
