"""Models and bundles to test on: from a graph of three nodes to the full-size stand-in."""
