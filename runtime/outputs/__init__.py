"""This room shows and keeps results: in a window, as lines, as a recording, as snapshots, by MQTT.

An ``InferRequest`` says which outputs to open; results, events and statuses then come in, and pictures, lines and files
go out. This room must not know how frames were captured and classified, or that a supervisor watches.
"""
