"""This room trains a Keras model: images in class folders come in, a run folder with the trained model goes out.

It uses ``runtime`` for preprocessing, specs, errors and the terminal. It must not know calibration, export or engines.
"""
