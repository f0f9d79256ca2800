"""This room turns the names of files, cameras and streams into frames, BGR uint8 of any size, and survives their loss.

Names and options come in; out come captures, whose frames end only with their files or at a stop, and events that say
what went wrong meanwhile. It must not know what is done with a frame: no model, no tensor and no output.
"""
