"""A bundle's variants for the CPU side by side: INT8 against FP32, for several batch sizes, interleaved.

    python benchmarks/int8_cpu.py BUNDLE

The bundle is any that hybrid-export --fp32 --int8 wrote. Inputs are the bundle's own golden examples; what is timed is
inference alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer
from interleave import RESULTS, Report, interleave

from hybrid_edge.runtime.backends import Backend, open_backend
from hybrid_edge.runtime.bundle import Bundle

BATCHES = (1, 8)


def main(bundle: Path, rounds: int = 15, warm_up: int = 3, out: Path = RESULTS) -> None:
    """Time every precision that the bundle has for the CPU."""
    opened = Bundle.open(bundle)
    precisions = [item.precision for item in opened.manifest.variants if item.target == "cpu"]
    backends = {name: open_backend(opened, "cpu", name).backend for name in precisions}
    examples = opened.golden_tensors()
    report = Report("int8_cpu", ("onnxruntime", "numpy"))
    for batch in BATCHES:
        tensors = {name: np.resize(tensor, (batch, *tensor.shape[1:])) for name, tensor in examples.items()}
        cases = {name: lambda backend=backend: _run(backend, tensors) for name, backend in backends.items()}  # noqa: B023
        timings = interleave(cases, rounds=rounds, warm_up=warm_up)
        speed = {
            f"fp32_takes_times_{name}": round(float(np.median(timings["fp32"]) / np.median(times)), 2)
            for name, times in timings.items()
            if name != "fp32"
        }
        report.add(f"{opened.spec.image_size} pixels, batch {batch}", timings, "fp32", **speed)
    report.save(out)


def _run(backend: Backend, tensors: dict[str, npt.NDArray[np.float32]]) -> None:
    backend.run(tensors)


if __name__ == "__main__":
    typer.run(main)
