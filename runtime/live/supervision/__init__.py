"""A parent that watches the worker's heartbeats, and replaces it."""
