"""Calibration images -> activation ranges, bound to the weights, images and preprocessing they were measured on.

Empty in this version: the run folder already lists the calibration images (``calibration.txt``); measuring
activation ranges on them comes with the INT8 export.
"""
