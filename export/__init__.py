"""Export: makes a bundle of a trained Keras model, and what is made of a bundle, such as a tar or engines.

In come a run folder or a ``.keras`` file and real images; out come ONNX variants in a bundle, each proven against Keras
on these images, golden examples and a report. This room may import train, calib and runtime, and none of them may
import it; what runs on a device without TensorFlow, such as building an engine, lives in runtime and is only called.
"""
