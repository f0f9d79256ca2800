"""Live runs: pipelines of plain objects, and processes with a window, a recording or a supervisor."""
