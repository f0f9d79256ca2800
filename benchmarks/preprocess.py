"""One 1280x720 JPEG to the reference model's inputs: ours, with and without decoding, against Keras's own path.

Keras's path is what its documentation shows: ``load_img`` at the target size, ``img_to_array``, ``preprocess_input``,
and the mean of the channels as the sequence. Its default resizing takes the nearest pixel, ours interpolates; so
Keras's bilinear resizing is timed as well.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import typer
from interleave import RESULTS, Report, interleave
from photographs import QUALITY, frame

from hybrid_edge.runtime.preprocess import Preprocessor, decode_image, read_image
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.tensorflow_import import import_tensorflow

WIDTH, HEIGHT = 1280, 720
PHOTOGRAPH = "motorcycle_left.png"
LIMIT = 2e-3  # seconds for one decoded frame: the project's own target on two cores


def main(rounds: int = 200, warm_up: int = 10, out: Path = RESULTS) -> None:
    """Time the four paths in one process, interleaved."""
    import_tensorflow()
    import keras

    spec = ModelSpec()
    size, shape = spec.image_size, spec.sequence_shape
    ok, encoded = cv2.imencode(".jpg", frame(PHOTOGRAPH, WIDTH, HEIGHT), QUALITY)
    assert ok  # noqa: S101  # a benchmark without its image has nothing to say
    decoded = decode_image(encoded.tobytes())
    preprocessor = Preprocessor(spec)
    tensors = preprocessor.allocate(1)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.jpg"
        path.write_bytes(encoded.tobytes())

        def through_keras(interpolation: str) -> None:
            image = keras.utils.load_img(path, target_size=(size, size), interpolation=interpolation)
            pixels = keras.applications.xception.preprocess_input(keras.utils.img_to_array(image))
            np.mean(pixels, axis=-1).reshape(shape)

        timings = interleave(
            {
                "decoded frame to tensors": lambda: preprocessor.fill(decoded, tensors, 0),
                "file to tensors": lambda: preprocessor.fill(read_image(path), tensors, 0),
                "file through Keras, its default (nearest)": lambda: through_keras("nearest"),
                "file through Keras, bilinear": lambda: through_keras("bilinear"),
            },
            rounds=rounds,
            warm_up=warm_up,
        )
    report = Report("preprocess", ("hybrid-edge", "numpy", "opencv-python", "keras", "tensorflow", "pillow"))
    median = float(np.median(timings["decoded frame to tensors"]))
    report.add(
        f"{WIDTH}x{HEIGHT} JPEG of {encoded.size // 1024} KiB to image {spec.image_shape} and sequence {shape}",
        timings,
        "file to tensors",
        limit_ms_of_a_decoded_frame=LIMIT * 1e3,
        limit_held=median < LIMIT,
        opencv_threads=cv2.getNumThreads(),
    )
    report.save(out)
    sys.exit(median >= LIMIT)


if __name__ == "__main__":
    typer.run(main)
