"""A Keras model as a LiteRT (TensorFlow Lite) file, by TensorFlow's own converter.

    python -m peers.make_litert fp32|weights|int8 MODEL.keras BATCH CALIBRATION FILE.tflite

The batch is fixed: with a symbolic one the converter refuses the LSTMs' tensor lists. ``weights`` is its default
optimization (weights in INT8, activations in float), ``int8`` adds the calibration images.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]

SUBSET = 100  # what TensorFlow's documentation suggests: 100 to 500 samples


def main(kind: str, model_file: str, batch: str, calibration: str, out: str) -> None:
    """Convert."""
    from hybrid_edge.train.tensorflow_import import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    from hybrid_edge.train.model_file import load_model

    model, spec = load_model(Path(model_file))
    images = np.load(Path(calibration) / "image.npy", mmap_mode="r")

    def samples() -> Iterator[list[Any]]:
        for start in range(0, min(SUBSET, len(images)) - int(batch) + 1, int(batch)):
            yield [np.array(images[start : start + int(batch)])]

    with tempfile.TemporaryDirectory() as folder:
        signature = [tf.TensorSpec((int(batch), *spec.image_shape), tf.float32, name="image")]
        _step("exporting the model")
        model.export(folder, input_signature=signature, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if kind != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "int8":
            converter.representative_dataset = samples
        _step("calibrating the graph with its LSTMs' loops" if kind == "int8" else "converting")
        content = converter.convert()
    partial = Path(out).with_name(f"partial-{Path(out).name}")
    partial.write_bytes(content)
    partial.replace(out)


def _step(what: str) -> None:
    print(f"step: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:6])
