"""Takes frames from captures to sinks: a thread for each capture, one to preprocess, one to infer.

A request comes in, and with it captures, a classifier and sinks; each frame that is classified or unreadable goes to
the sinks as a ``Result``, on the caller's thread, and every frame is counted. This room must not know what a capture
reads, which engine a backend runs, or what a sink does with a result.

    launch      a request -> a supervisor with its worker, or this process alone
    classify    a request -> bundle, captures and sinks, and a pipeline between them
    dataflow    ``Pipeline``: starts, drains and ends the threads
    mailbox, stages, delivery    a frame's way, with what the stages share in ``handover``
"""
