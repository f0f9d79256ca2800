"""Classifies frames as they come from files, cameras and streams, for as long as they come.

A ``Request`` comes in, which names sources, a bundle and outputs; results go out to stdout, a window and files, and an
exit code comes back. This room must not know how a source is read or how an engine runs a batch: ``sources`` and
``backends`` see to that.
"""
