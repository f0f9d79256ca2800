"""Every TensorRT variant of a bundle, built with TensorRT-RTX for several architectures: seconds, size, what it parsed.

    python benchmarks/rtx_builds.py BUNDLE

No GPU is needed, and none is used: that a graph builds says nothing about what is fused, or how fast it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from interleave import RESULTS, Report

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from support.gpu.network_summary import Product, inspect_graph

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.build import build_engine
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import find_library

ARCHITECTURES = "sm80,sm86,sm89,sm120"


def main(
    bundle: Path,
    architectures: Annotated[str, typer.Option()] = ARCHITECTURES,
    out: Path = RESULTS,
) -> None:
    """Build one after the other."""
    report = Report("rtx_builds", ("tensorrt-rtx", "onnx"))
    for title, facts in builds(bundle, architectures.split(",")):
        report.add_facts(title, **facts)
    report.save(out)


def builds(bundle: Path, architectures: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build every TensorRT variant of a bundle for each architecture; yield what was found of it by its name."""
    opened = Bundle.open(bundle)
    library = find_library("rtx")
    for variant in opened.manifest.variants:
        if variant.target != "tensorrt":
            continue
        graph = opened.verified(variant.file).read_bytes()
        network = inspect_graph(graph, opened.spec, library)
        for architecture in architectures:
            built = build_engine(graph, opened.spec, EngineOptions(), library, architecture=architecture)
            yield (
                f"{variant.name} for {architecture}",
                {
                    "seconds": round(built.seconds, 1),
                    "engine_mb": round(len(built.engine) / 1e6, 1),
                    "onnx_mb": round(variant.file.size / 1e6, 1),
                    "loops": network.loops,
                    "convolutions_quantized": _share(network.convolutions),
                    "matrix_products_quantized": _share(network.matrix_products),
                    "inputs": [f"{item.name} {item.dtype} {item.shape}" for item in network.inputs],
                    "outputs": [f"{item.name} {item.dtype} {item.shape}" for item in network.outputs],
                },
            )


def _share(products: Sequence[Product]) -> str:
    """How many have Q/DQ on both inputs."""
    return f"{sum(item.quantized for item in products)}/{len(products)}"


if __name__ == "__main__":
    typer.run(main)
