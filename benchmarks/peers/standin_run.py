"""The model that is measured where none is named: the tests' full-size stand-in, its images and its bundle.

Random branches with honest statistics and a head fitted on crops of photographs (``standin`` in tests/), so that its
labels are decided and depend on both branches; each image's class is the stand-in's own label.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from hybrid_edge.train.tensorflow_import import import_tensorflow

__all__ = ["Run", "standin_run"]

IMAGES, CALIBRATION = 200, 300
SEEDS = {"images": 4242, "calibration": 777}
BATCH = 8
MAX_DROP = "5"  # points


@dataclass(frozen=True)
class Run:
    """A Keras model's file, its bundle, images in class folders, and images to calibrate on."""

    model: Path
    bundle: Path
    images: Path
    calibration: Path


def standin_run(folder: Path) -> Run:
    """The stand-in in ``folder``, made on the first call: minutes, and 6 GB of memory at its peak."""
    run = Run(folder / "model.keras", folder / "bundle", folder / "images", folder / "calibration")
    if not (run.bundle / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        code = f"from pathlib import Path; from peers.standin_run import write; write(Path({str(folder)!r}))"
        path = os.pathsep.join(item for item in (str(Path(__file__).parent.parent), *sys.path) if item)
        # in a process of its own: TensorFlow's memory goes with it
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
        words = ["--fp32", "--int8", "--images", run.images, "--calib", run.calibration, "--out", run.bundle]
        # where the labels are Keras's own, rounding can only lose; the page holds every engine to the gate anyway
        words += ["--max-drop", MAX_DROP]
        subprocess.run([Path(sys.executable).with_name("hybrid-export"), run.model, *words], check=True)
    return run


def write(folder: Path) -> None:
    """Make the model and both folders of images."""
    import_tensorflow()
    import numpy as np
    from support.models.standin import FULL, crops, make_standin

    from hybrid_edge.runtime.preprocess import Preprocessor

    model = make_standin(FULL, folder / "model.keras")
    preprocessor = Preprocessor(FULL)
    for number, frame in enumerate(crops(CALIBRATION, SEEDS["calibration"])):
        _save(folder / "calibration" / f"{number:04}.png", frame)
    frames = crops(IMAGES, SEEDS["images"])
    for start in range(0, IMAGES, BATCH):
        rows = frames[start : start + BATCH]
        labels = np.argmax(model.predict_on_batch(preprocessor(rows)["image"]), axis=1)
        for number, (frame, label) in enumerate(zip(rows, labels, strict=True), start=start):
            _save(folder / "images" / FULL.class_labels[label] / f"{number:04}.png", frame)


def _save(path: Path, frame: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(os.fspath(path), frame)  # type: ignore[call-overload]
