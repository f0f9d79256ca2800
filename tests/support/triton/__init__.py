"""A real Triton server for tests."""
