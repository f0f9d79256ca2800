"""This room turns the names of files, cameras and streams into frames, BGR uint8 of any size, and survives their loss.

Names come in; frames, notes and events go out. It must not know what is done with a frame: no model, no tensor and no
output; asking what a source's name means (``sources.names``) needs no OpenCV.
"""
