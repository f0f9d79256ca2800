"""A disk that fills up while a model trains ends the command with its message, and never with a crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

FILLS = """
import sys
from pathlib import Path
from hybrid_edge.train import command
from hybrid_edge.train.tensorflow_import import import_tensorflow

import_tensorflow()
from hybrid_edge.train import checkpoints

def fill(self, epoch, logs=None, original=checkpoints.EpochRecorder.on_epoch_end):
    original(self, epoch, logs)
    try:
        with (self.training.run.path / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
    except OSError:
        pass

if FULL_AFTER_RECORDING:  # else it is while the weights are written
    checkpoints.EpochRecorder.on_epoch_end = fill
command.main()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2.2 MiB, into which one of a model's two files of an epoch goes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a file system: root, outside of a plain container")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("after", [False, True], ids=["weights", "TensorBoard"])
def test_a_full_disk_in_training_ends_with_1_and_says_how_to_go_on(
    few_digits: Path, small_disk: Path, after: bool
) -> None:
    if after:
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    arguments = [few_digits, "--preset", "digits", "--phase1-epochs", 2, "--phase2-epochs", 0]
    program = FILLS.replace("FULL_AFTER_RECORDING", str(after))
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments), "--runs", str(small_disk / "runs"), "--name", "full"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    assert "No space left on device; once that is mended: hybrid-train --resume --name full" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
