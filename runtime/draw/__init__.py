"""This room is hybrid-draw: a window in which one draws a digit, and every model says what it reads.

Bundles, mouse and keys come in; answers and saved drawings go out. It must not know how a model computes its answer,
nor anything of a live run but what its outputs know of displays.
"""
