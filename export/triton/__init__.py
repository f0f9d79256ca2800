"""Triton: makes a bundle a model repository of Triton Inference Server, and proves a running server by the bundle.

Nothing here needs TensorFlow. ``serving`` is what runs inside the server's Python backend.
"""
