"""Takes frames from captures to sinks: a thread for each capture, one to preprocess, one to infer.

Captures, a classifier and sinks come in; each frame goes to the sinks as a ``Result``, on the caller's thread, and is
counted whatever becomes of it. This room must not know what a capture reads, which engine a backend runs, or what a
sink does with a result.
"""
