"""Contains the runtime's commands: each module parses a command line, calls one public function and prints.

A command line comes in; what is asked for goes out to stdout, everything else to stderr, and an exit code comes back.
This room must not know how anything is done, and ``--help`` must load neither OpenCV nor an engine.
"""
