"""Frames as they come: capture, preprocessing, batches, inference and outputs, each on its own thread."""
