"""The ONNX graphs of a bundle: written from the Keras model, lowered to FP16 and INT8, checked."""
