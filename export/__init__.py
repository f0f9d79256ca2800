"""A trained Keras model -> a bundle: its ONNX graph, the proof that both are the same model, and golden examples."""
