"""Gates: every variant is run against Keras on real images and judged before it is in a bundle.

In come the Keras model's answers on the images and an artifact with its targets; out come figures beside their limits,
the images whose label flipped, a verdict and a time. This room must not depend on how a graph was quantized, nor write
to the bundle.
"""
