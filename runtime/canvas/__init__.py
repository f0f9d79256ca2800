"""This room draws text and pictures on pictures, for the live window, recordings, hybrid-draw and comparison sheets.

Pictures, texts and colours come in; all is drawn into (H, W, 3) uint8 arrays, BGR, in place. It must not know who shows
or keeps them.
"""
