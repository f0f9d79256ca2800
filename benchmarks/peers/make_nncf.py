"""NNCF's INT8 of an ONNX graph, with its defaults: runs in the environment that has openvino and nncf.

    python -m peers.make_nncf GRAPH.onnx CALIBRATION FILE.xml

The one departure: LSTMs stay as they are, because OpenVINO's CPU plugin refuses a quantized ``LSTMSequence``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino

__all__ = ["main"]

SUBSET = 300  # NNCF's default


def main(graph: Path, calibration: Path, out: Path) -> None:
    """Quantize and write ``out`` and its ``.bin``."""
    model = openvino.Core().read_model(graph)
    names = [item.any_name for item in model.inputs]
    inputs = {name: np.load(calibration / f"{name}.npy", mmap_mode="r") for name in names}
    rows = range(min(SUBSET, len(next(iter(inputs.values())))))
    print("step: calibrating", file=sys.stderr)
    data = nncf.Dataset(rows, lambda row: {name: np.array(values[row : row + 1]) for name, values in inputs.items()})
    quantized = nncf.quantize(
        model, data, subset_size=SUBSET, ignored_scope=nncf.IgnoredScope(types=["LSTMSequence"], validate=False)
    )
    partial = out.with_name(f"partial-{out.name}")
    openvino.save_model(quantized, partial, compress_to_fp16=False)
    partial.with_suffix(".bin").replace(out.with_suffix(".bin"))
    partial.replace(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
