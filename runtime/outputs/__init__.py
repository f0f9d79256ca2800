"""Writes live results to a window, lines on stdout and stderr, a recording, snapshots.

A ``Request`` says which outputs to open; results, events and statuses then come in, and pictures, lines and files go
out. This room must not know how frames were captured and classified, or that a supervisor watches.
"""
