"""Takes frames from captures to sinks: a thread for each capture, one to preprocess, one to infer.

Captures, a classifier and sinks come in; each frame that is classified or unreadable goes to the sinks as a ``Result``,
on the caller's thread, and every frame is counted. This room must not know what a capture reads, which engine a backend
runs, or what a sink does with a result.
"""
