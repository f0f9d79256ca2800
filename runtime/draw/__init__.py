"""hybrid-draw: a window in which one draws a digit, and every model says what it reads.

Names are loaded where they are used: ``hybrid-draw --help`` needs neither OpenCV nor an inference engine.
"""
