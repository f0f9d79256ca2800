"""The ONNX graphs of a bundle: written from the Keras model in FP32, lowered to FP16 and INT8, and checked.

In come a Keras model with its spec, then ranges and channel statistics by tensor; out come ONNX models in memory whose
nodes are named by branch and layer. This room must not know bundles, gates or reports, nor run a graph on images.
"""
