"""This room trains a Keras model: images in class folders come in, a run folder with the trained model goes out.

It uses ``runtime`` for preprocessing, specs, errors, the terminal and the disk. It must not know calibration, export,
engines or backends.
"""
