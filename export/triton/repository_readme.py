"""Writes the README of a model repository: how to start a server on it, ask it, and prove it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ...runtime.engines.engine_options import Profile
from ...runtime.manifest import Target, Variant
from ...runtime.spec import ModelSpec
from ..bundle.engine_files import trtexec_options
from .model_config import ENCODED, PREPROCESS, ensemble_name

RELEASE = "26.07"  # the first without CVE-2026-24207, by which requests passed without authentication up to 26.02

HEAD = """# A model repository for Triton

Made by `hybrid-export --triton` of one bundle. Each `classify-…` takes the bytes of an image file (`{encoded}`: JPEG,
PNG and others) and answers with `probabilities` and `logits` of {classes} classes. It is an ensemble of two models,
`{preprocess}` and the variant itself, which takes tensors. Up to {largest} images go together. Requests that wait are
batched; that changes no answer, since no row depends on its neighbours.

## Start

Triton {release} or later: up to 26.02 a server lets requests in without authentication (CVE-2026-24207). `{preprocess}`
needs hybrid-edge in the container. In a folder with its wheel:

    cat > Dockerfile <<'END'
    FROM nvcr.io/nvidia/tritonserver:{release}-py3
    RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
    COPY hybrid_edge-*.whl /wheel/
    RUN pip install --no-cache-dir "$(echo /wheel/hybrid_edge-*.whl)[{extras}]"
    END
    docker build -t hybrid-edge-triton .
    docker run --rm --shm-size=1g -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 \\
      -v {models}:ro {cache}hybrid-edge-triton tritonserver --model-repository /models \\
      --disable-auto-complete-config --model-control-mode explicit --load-model {first}

That loads one ensemble and the two models that it needs. Each further `--load-model` adds one of these; those on a GPU
need `--gpus all` before `--shm-size`. Of two bundles each has a server of its own.

{table}
"""

PLANS = """
## TensorRT

A plan belongs to one TensorRT and one kind of GPU: build it on the machine that serves, with the TensorRT of the same
release, before the server starts, and again after each upgrade:

{commands}
"""

TAIL = """
## Ask

    import sys
    import numpy as np
    from tritonclient import http  # pip install 'tritonclient[http]'

    with open(sys.argv[1], "rb") as file:
        image = http.InferInput("{encoded}", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[file.read()]], dtype=object))
    wanted = [http.InferRequestedOutput("probabilities", class_count=5)]  # or all, float32
    answer = http.InferenceServerClient("localhost:8000").infer("{first}", [image], outputs=wanted)
    print(answer.as_numpy("probabilities"))

## Prove

    hybrid-export --check-triton http://localhost:8000 BUNDLE

sends the bundle's golden examples alone, in batches and from several clients at once, and ends with exit code 3 where
an answer is not the exporter's.
"""


def readme(spec: ModelSpec, variants: Sequence[Variant], profile: Profile, folder: Path, *, python: bool) -> str:
    """Return the text; ``folder`` is where the repository will be."""
    first = variants[0]
    rows = ["| model | precision | runs on |", "|---|---|---|"]
    rows += [f"| `{ensemble_name(item)}` | {item.precision} | {_engine(item, python=python)} |" for item in variants]
    targets = {item.target for item in variants} if python else set()
    names = {
        "classes": spec.num_classes,
        "encoded": ENCODED,
        "extras": _extras(targets),
        "first": ensemble_name(first),
        # an engine takes minutes to build: it outlives the container
        "cache": "-v hybrid-edge-engines:/root/.cache/hybrid-edge " if "tensorrt" in targets else "",
        "models": shlex.quote(f"{folder}:/models"),
        "largest": profile[2],
        "preprocess": PREPROCESS,
        "release": RELEASE,
        "table": "\n".join(rows),
    }
    plans = [] if python else [_plan(spec, item, profile, folder) for item in variants if item.target == "tensorrt"]
    return HEAD.format(**names) + (PLANS.format(commands="\n".join(plans)) if plans else "") + TAIL.format(**names)


def _extras(targets: set[Target]) -> str:
    """Name what pip installs beside hybrid-edge: OpenCV, and the engines that the Python backend runs."""
    return ("gpu" if "cuda" in targets else "cpu") + (",tensorrt" if "tensorrt" in targets else "")


def _engine(variant: Variant, *, python: bool) -> str:
    where = "CPU" if variant.target == "cpu" else "GPU"
    library = "TensorRT" if variant.target == "tensorrt" else "ONNX Runtime"
    return f"{library}, {where}, " + ("in the Python backend" if python else "Triton's own backend")


def _plan(spec: ModelSpec, variant: Variant, profile: Profile, folder: Path) -> str:
    path, models = f"/models/{variant.name}/1/model", shlex.quote(f"{folder}:/models")
    return (
        f"    docker run --rm --gpus all -v {models} nvcr.io/nvidia/tensorrt:{RELEASE}-py3 \\\n"
        f"      trtexec --onnx={path}.onnx {trtexec_options(spec, profile)} --saveEngine={path}.plan"
    )
