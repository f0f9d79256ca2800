"""Do what a fresh process does up to its first prediction with one variant; the heavy imports here are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..backends import open_variant
from ..backends.cuda import find_gpu
from ..bundle import Bundle
from ..classifier import Classifier
from ..engines.engine_options import EngineOptions
from ..golden import check_golden
from ..manifest import Target
from ..preprocess import Preprocessor

__all__ = ["classify_first"]

MIB = 2**20


def classify_first(request: Mapping[str, Any], moment: Callable[[], None]) -> float | None:
    """Open a variant, check it and classify a golden example; ``moment`` is called after each of the three.

    Args:
        request: has ``bundle``, ``variant`` (its name), ``threads``, and ``profile`` of its engine.
        moment: notes the time.

    Returns:
        The MiB of the GPU's memory that all this took; None for a CPU.
    """
    bundle = Bundle.open(request["bundle"])
    variant = next(item for item in bundle.manifest.variants if item.name == request["variant"])
    free = _free(variant.target)
    options = EngineOptions(tuple(request["profile"]), build=False)
    selection = open_variant(bundle, variant, threads=request["threads"], engine=options)
    with Classifier(bundle, selection, batch_size=1, check=False) as classifier:
        moment()
        check_golden(bundle, variant, selection.backend, Preprocessor(bundle.spec))
        moment()
        classifier.predict(bundle.golden_images()[:1])
        moment()
        return None if free is None else (free - (_free(variant.target) or free)) / MIB


def _free(target: Target) -> int | None:
    return None if target == "cpu" else find_gpu().free_memory
