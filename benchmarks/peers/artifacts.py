"""What peers need made before they run, each by the engine's own tool; kept, and so is the reason where that fails.

A tool that a signal ended is run again the next time: it was interrupted, or there was too little memory.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_edge.runtime.storage import file_sha256

from .errors import PeerError

__all__ = ["Maker"]

BENCHMARKS = Path(__file__).parent.parent
LIMIT = 1800.0  # seconds
TOOLS = Path(__file__).parent
MAKERS = {"nncf": ("openvino", "nncf"), "litert": ("tensorflow",)}  # what converts: another version, another artifact
VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"


@dataclass(frozen=True)
class Maker:
    """Makes artifacts of one model.

    Attributes:
        model: the Keras model's file.
        graph: the plain ONNX graph.
        calibration: folder of ``image.npy`` and ``sequence.npy`` of calibration images.
        images: digest of those.
        batches: batch sizes that will be run.
        folder: where what is made is kept, under names that depend on all of the above.
    """

    model: Path
    graph: Path
    calibration: Path
    images: str
    batches: Sequence[int]
    folder: Path

    def make(self, name: str, python: str) -> dict[str, Any]:
        """The options that an artifact adds to a peer's; it is made if it is not there.

        Args:
            name: ``nncf_int8``, ``litert_fp32``, ``litert_weights`` or ``litert_int8``.
            python: the interpreter that has the tool.

        Raises:
            PeerError: the tool failed, now or, by itself, before; the message has its own last line.
        """
        tool, _, kind = name.partition("_")
        versions = _versions(python, MAKERS[tool])
        if name == "nncf_int8":
            key = self._key(name, file_sha256(self.graph), self.images, (TOOLS / "make_nncf.py").read_text(), versions)
            return {"graph": str(self._made(key, ".xml", python, "make_nncf", str(self.graph), str(self.calibration)))}
        calibrated = (self.images,) if kind == "int8" else ()
        files = {}
        for batch in self.batches:
            script = (TOOLS / "make_litert.py").read_text()
            source = (file_sha256(self.model), str(batch), *calibrated, script, versions)
            words = ("make_litert", kind, str(self.model), str(batch), str(self.calibration))
            files[str(batch)] = str(self._made(self._key(f"{name}-{batch}", *source), ".tflite", python, *words))
        return {"files": files}

    def _key(self, name: str, *parts: str) -> str:
        return f"{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}"

    def _made(self, key: str, suffix: str, python: str, tool: str, *arguments: str) -> Path:
        """Run ``python -m peers.TOOL ARGUMENTS... FILE`` unless the file is there; it writes FILE last."""
        path, failed = self.folder / f"{key}{suffix}", self.folder / f"{key}.failed"
        if failed.exists():
            raise PeerError(failed.read_text())
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            words = [python, "-m", f"peers.{tool}", *arguments, str(path)]
            environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS), "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = _run(words, environment)
            if done.returncode:
                why = _why(tool, done.returncode, done.stderr)
                if done.returncode > 0:
                    failed.write_text(why)
                raise PeerError(why)
        return path


def _versions(python: str, packages: Sequence[str]) -> str:
    """Of the packages that an interpreter has; empty where it lacks one or does not run, which the tool says."""
    try:
        return _run([python, "-c", VERSIONS, *packages], dict(os.environ)).stdout.strip()
    except PeerError:
        return ""


def _run(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{words[0]} -m {words[2]}: {error}") from error


def _why(tool: str, code: int, stderr: str) -> str:
    if code < 0:
        return f"{tool.removeprefix('make_')}'s converter ended by signal {-code}{_where(stderr)}"
    lines = [line for line in stderr.splitlines() if line.strip()] or ["no message"]
    return f"{tool.removeprefix('make_')}'s converter failed{_where(stderr)}: {lines[-1].strip()[:300]}"


def _where(stderr: str) -> str:
    """The step that the tool named last, on a line of its own that starts with ``step:``."""
    steps = [line.removeprefix("step:").strip() for line in stderr.splitlines() if line.startswith("step:")]
    return f" while {steps[-1]}" if steps else ""
