"""A bundle of the digits stand-in, exported with the real command: for machines that have no TensorFlow to make one.

python tests/support/models/exported.py build/bundle.tar
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hybrid_edge.runtime.bundle import Bundle


def export_digits(folder: Path, *options: str) -> Bundle:
    """Export the digits stand-in as ``options`` say, gated on images on which it decides."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # its memory is for the engines of this process
    from support.models.standin import DIGITS, make_standin, write_crops
    from support.models.whole import write_decided

    make_standin(DIGITS, folder / "digits.keras")
    calibration = write_crops(folder / "calibration", 300, seed=78)
    hybrid_export(folder, "--fp32", "--images", calibration, "--gate-images", 8, "--out", folder / "first")
    photos = write_decided(folder / "first", folder / "photos", 64, seed=77)
    hybrid_export(folder, *options, "--images", photos, "--calib", calibration, "--out", folder / "bundle")
    return Bundle.open(folder / "bundle")


def hybrid_export(folder: Path, *arguments: object) -> None:
    """Run the command; exit 3 says that a variant did not pass its gate, those that did are in the bundle."""
    command = [Path(sys.executable).with_name("hybrid-export"), folder / "digits.keras", *arguments]
    done = subprocess.run([str(item) for item in command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        bundle = export_digits(Path(work), "--fp32", "--int8", "--pack")
        shutil.move(bundle.root.with_suffix(".tar"), target)
