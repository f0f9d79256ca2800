"""Refuses graphs that an export would not have written, from their own bytes, before any engine reads them.

onnx_file: the file's bytes ──► operators, constants, sizes      operator_call: what a rule is asked about one operator
layer_shapes, graph_shapes: a rule for each operator             graph_guard: the whole graph against its bounds
"""
