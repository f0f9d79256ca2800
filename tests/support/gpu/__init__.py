"""GPUs: a stand-in for CUDA and TensorRT where there is none, and what the tests on a real one share."""
