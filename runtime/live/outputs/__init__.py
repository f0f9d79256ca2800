"""Where live results go: a window, lines, a recording, snapshots."""
