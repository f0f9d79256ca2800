"""Proves on this device that a new bundle does what it must, in processes of their own, which may crash or hang.

They are the commands that users have: ``hybrid-infer`` builds the engine and runs the golden examples as it will in
use; ``hybrid-compare`` runs the new bundle and the old one in turn on the same images.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import GateError, GoldenError, RefusedUpdateError, UpdateError
from ..process import python_command

LEAST_ANSWERS = 64  # to golden images, of which there may be eight, for a median that means something
MAX_QUOTED = 500  # characters of a command's error


@dataclass(frozen=True)
class DeviceProof:
    """How a new bundle must compare with the old one on this device.

    Attributes:
        options: of the engine, as ``hybrid-infer`` takes them: backend, precision, threads.
        frames: images to compare on, in class folders where accuracy is to be compared; None: the golden examples.
        max_slower: the most that the new one's median time for a frame may be, as a multiple of the old one's.
        max_drop: the accuracy that may be lost, 0 to 1.
        timeout: seconds after which a process counts as hung; building an engine takes minutes.
    """

    options: tuple[str, ...] = ()
    frames: Path | None = None
    max_slower: float = 1.5
    max_drop: float = 0.01
    timeout: float = 900.0

    def check_alone(self, new: Bundle) -> None:
        """Build a bundle's engine, and run its golden examples.

        Raises:
            GateError: this device computes something else than the exporter did, or can't build the INT8 graph.
            UpdateError: the bundle does not run here: no variant, a crash, a hang.
        """
        self._run("infer", [*_golden(new)[:1], "--bundle", new.root, "--json", "--check"])

    def compare(self, new: Bundle, old: Bundle) -> dict[str, Any]:
        """Run both bundles, which have the same labels, on the same images, and return what was measured.

        It has ``slower`` (a ratio), ``agreement`` (0 to 1), ``images``, and ``accuracy`` and ``accuracy_before``, None
        where the images are in no class folders.

        Raises:
            RefusedUpdateError: the new one is slower, or loses more accuracy, than allowed.
            UpdateError: the two can't be run side by side.
        """
        images = [self.frames] if self.frames else _repeated(_golden(new))
        with tempfile.TemporaryDirectory() as folder:
            bundles = ["--bundle", old.root, "--with", new.root, "--sheet", Path(folder) / "differences.png"]
            lines = self._run("compare", [*images, *bundles, "--json", "--batch", 1])
        found = _compared(json.loads(lines[-1])["comparison"])
        self._judge(found)
        return found

    def _judge(self, found: dict[str, Any]) -> None:
        if found["slower"] is None:
            raise UpdateError(f"{self.frames}: expected images to compare the bundles on, found none that can be read")
        if found["slower"] > self.max_slower:
            raise RefusedUpdateError(
                f"expected at most {self.max_slower:g} times the time of the bundle that runs, found "
                f"{found['slower']:.2f} times; --max-slower admits more"
            )
        before, accuracy = found["accuracy_before"], found["accuracy"]
        if before is not None and before - accuracy > self.max_drop:
            raise RefusedUpdateError(
                f"expected to lose at most {100 * self.max_drop:g} points of accuracy on {found['images']} images, "
                f"found {100 * before:.1f} % before and {100 * accuracy:.1f} % with the new one; --max-drop admits more"
            )

    def _run(self, name: str, arguments: Sequence[object]) -> list[str]:
        """Run a command and return its lines; its stderr is kept for the error, if it ends with one."""
        program = python_command(f"from hybrid_edge.runtime.commands.{name} import main; main()")
        command = [*program, *map(str, arguments), *self.options]
        process = subprocess.Popen(  # noqa: S603  # this interpreter, this package
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            raise UpdateError(
                f"hybrid-{name}: expected an answer of the new bundle within {self.timeout:g} s, found that it hangs; "
                "--timeout gives a slow build more"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode != 0:
            raise _refusal(name, process.returncode, err)
        return out.splitlines()


def _refusal(name: str, code: int, err: str) -> Exception:
    said = err.rpartition("error: ")[2].strip() or f"exit code {code}"
    if code < 0:
        said = f"it was ended by {signal.Signals(-code).name}"
    text = f"hybrid-{name} on this device: {' '.join(said.split())[:MAX_QUOTED]}"
    return GoldenError(text) if code == GateError.exit_code else UpdateError(text)


def _golden(bundle: Bundle) -> list[Path]:
    return [bundle.root / item.file.path for item in bundle.manifest.golden.images]


def _repeated(images: list[Path]) -> list[Path]:
    return images * -(-LEAST_ANSWERS // len(images))


def _compared(figures: dict[str, Any]) -> dict[str, Any]:
    old, new = figures["models"]
    timed = old["p50_ms"] and new["p50_ms"]
    return {
        "images": figures["images"],
        "slower": new["p50_ms"] / old["p50_ms"] if timed else None,
        "agreement": figures["same"] / figures["images"] if figures["images"] else None,
        "accuracy": new["accuracy"],
        "accuracy_before": old["accuracy"],
    }
