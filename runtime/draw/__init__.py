"""This room is hybrid-draw: a window in which one draws a digit, and every model says what it reads.

Bundles, mouse and keys come in; predictions and saved drawings go out. It must not know how a model computes its
answer. Names are loaded where they are used: ``hybrid-draw --help`` needs neither OpenCV nor an inference engine.
"""
