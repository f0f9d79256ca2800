"""This room runs several bundles on the same images and shows where they differ.

Bundles and image sources come in; accuracy, agreement, latency and size go out as a table or as JSON lines, the images
on which the models differ as a contact sheet. It must not know how a model computes its answer, nor live sources.
"""
