"""This room makes a variant's graph out of the FP32 one: FP16, or INT8 with ranges measured on calibration images.

The FP32 graph and what was measured of its activations come in; graphs for TensorRT, ONNX Runtime on a GPU and on a CPU
go out. The room must not judge what it makes: ``gates`` does.
"""
