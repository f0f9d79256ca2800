"""Tells what a machine can run, what is known to be broken there, and what to do about it.

Facts about this machine, or recorded ones of another, come in; a report of findings and of tried engines goes out.
What could crash, hang or raise (an import, an engine, a tool) runs in a process of its own, with a time limit: this
room loads no library but Python's own, and must not know how its report is drawn.
"""
