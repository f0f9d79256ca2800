"""Quantize: makes a variant's graph out of the FP32 one, in FP16, or in INT8 with ranges measured on images.

In come the FP32 graph and calibration images; out come graphs for TensorRT, ONNX Runtime on a GPU and on a CPU, through
stages none of which changes the one before. This room must not judge what it makes, which ``gates`` does, nor know the
bundle.
"""
