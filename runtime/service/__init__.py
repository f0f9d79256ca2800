"""Watches the process that classifies from a parent process, and replaces it where it hangs or crashes.

A command line and the worker's heartbeats come in; signals to the worker, notices to systemd, one event for
each worker given up and an exit code go out. This room must not load OpenCV or an engine, and must not know what the
worker computes.
"""
