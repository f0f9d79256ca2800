"""Convert: writes the Keras model as an ONNX graph in FP32, and reads and checks graphs of every precision.

In come a Keras model with its spec; out come ONNX models in memory whose nodes are named by branch and layer. This room
must not know how a graph is quantized, nor bundles, gates or reports, nor run a graph on images.
"""
