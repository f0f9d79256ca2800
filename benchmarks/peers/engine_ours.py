"""A bundle's variant through the project's own backend, as ``hybrid-infer`` opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_edge import __version__
from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.bundle import Bundle

from .worker import Engine, Tensors

__all__ = ["open_engine"]


def open_engine(options: dict[str, Any], threads: int) -> Engine:
    """Open ``options["precision"]`` of ``options["bundle"]`` on the backend ``options["backend"]``."""
    bundle = Bundle.open(Path(options["bundle"]))
    selection = open_backend(bundle, options["backend"], options["precision"], threads=threads)
    names = tuple(bundle.spec.inputs)

    def run(tensors: Tensors) -> Any:
        return selection.backend.run({name: tensors[name] for name in names}).probabilities

    return Engine(run, {"hybrid-edge": __version__, "backend": selection.backend.device})
