"""In the golden check a device computes the bundle's examples and compares them with what the exporter recorded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from .. import __version__
from . import preprocess
from .bundle import Bundle
from .engines.cache import EngineCache, digest_of
from .errors import GoldenError
from .manifest import Variant
from .opencv import cv2
from .preprocess import Preprocessor

if TYPE_CHECKING:
    from .backends.base import Backend  # opening a backend runs this check

TENSOR_TOLERANCE = 1e-6  # the mean over channels may round differently in its last bit; anything else is a fault
EXAMPLES_AT_ONCE = 2  # a full-size INT8 process peaks at 430 MB, and at 520 MB with eight in a batch


@dataclass(frozen=True)
class GoldenResult:
    """How near this device came to the exporter: the largest |difference| of a tensor's value and of a probability.

    ``earlier`` says that this was found at an earlier start, with all the same, and that the examples did not run now.
    """

    examples: int
    tensor_error: float
    probability_error: float
    tolerance: float
    milliseconds: float
    earlier: bool = False


def prove_golden(
    bundle: Bundle, variant: Variant, backend: Backend, preprocessor: Preprocessor, *, anew: bool = False
) -> GoldenResult:
    """Check the golden examples, unless they passed on this device before and nothing has changed since.

    Whatever answers depend on must be the same: the bundle, variant, engine, CPU, threads, the kept graph, and what
    preprocesses. Where a backend does not know all of that, and with ``anew``, the examples run. That they passed is
    noted in the engine cache; where they do not, an earlier note is removed.

    Raises:
        GoldenError: as ``check_golden``.
    """
    identity, preprocessing = backend.identity, _preprocessing()
    if identity is None or preprocessing is None:
        return check_golden(bundle, variant, backend, preprocessor)
    of = {"bundle": bundle.fingerprint, "variant": variant.name, "preprocessing": preprocessing, **identity}
    of["tensor_tolerance"] = TENSOR_TOLERANCE
    cache, name = EngineCache(), f"{digest_of(of)}.golden"
    found = None if anew else _noted(cache.read_note(name), of)
    if found is not None:
        return replace(found, earlier=True)
    try:
        result = check_golden(bundle, variant, backend, preprocessor)
    except GoldenError:
        cache.drop_note(name)
        raise
    cache.keep_note(name, json.dumps({"of": of, "result": asdict(result)}).encode())
    return result


def _preprocessing() -> list[str] | None:
    """Return what turns pictures into tensors here: hybrid-edge with its own code for it, and the libraries' builds.

    None where that code is not to be read, as in an installation without sources.
    """
    try:
        own = hashlib.sha256(Path(preprocess.__file__).read_bytes()).hexdigest()
    except OSError:
        return None
    return [__version__, own, cv2.getBuildInformation(), np.__version__]


def _noted(content: bytes | None, of: dict[str, Any]) -> GoldenResult | None:
    if content is None:
        return None
    try:
        note = json.loads(content)
        found = TypeAdapter(GoldenResult).validate_python(note["result"])
        return found if note["of"] == of else None
    except (ValueError, TypeError, KeyError):
        return None


def check_golden(bundle: Bundle, variant: Variant, backend: Backend, preprocessor: Preprocessor) -> GoldenResult:
    """Decode, preprocess and run the bundle's golden examples, and compare each stage with the exporter's.

    ``backend`` has loaded the variant, and runs in batches of 2, which need little memory.

    Raises:
        GoldenError: a tensor differs by more than 1e-6, or a probability by more than the variant's tolerance.
    """
    start = time.perf_counter()
    errors, runs = [], []
    for tensors, error in _checked_batches(bundle, preprocessor):
        runs.append(backend.run(tensors))
        errors.append(error)
    probabilities = np.concatenate([outputs.probabilities for outputs in runs])
    difference = np.abs(probabilities - bundle.golden_outputs(variant).probabilities).max(axis=1)
    _require(variant, backend, difference)
    elapsed = (time.perf_counter() - start) * 1000
    return GoldenResult(len(difference), max(errors), float(difference.max()), variant.golden_tolerance, elapsed)


def check_tensors(bundle: Bundle, preprocessor: Preprocessor) -> float:
    """Decode and preprocess the golden examples; return the largest |difference| of a tensor's value.

    Raises:
        GoldenError: a tensor differs by more than 1e-6 from the exporter's.
    """
    return max(error for _, error in _checked_batches(bundle, preprocessor))


def _checked_batches(
    bundle: Bundle, preprocessor: Preprocessor
) -> Iterator[tuple[dict[str, npt.NDArray[np.float32]], float]]:
    """Yield the tensors that this machine makes of two examples at a time, and how far they are from the exporter's.

    Only one decoded example is held: there may be many, and large ones.
    """
    images = bundle.golden_images()
    for expected in bundle.golden_batches(EXAMPLES_AT_ONCE):
        count = len(next(iter(expected.values())))
        found = preprocessor.allocate(count)
        for row in range(count):
            preprocessor.fill(next(images), found, row)
        yield found, _error(found, expected)


def _error(found: dict[str, npt.NDArray[np.float32]], expected: dict[str, npt.NDArray[np.float32]]) -> float:
    errors = {name: float(np.abs(found[name] - tensor).max()) for name, tensor in expected.items()}
    name = max(errors, key=lambda key: errors[key])
    if errors[name] > TENSOR_TOLERANCE:
        raise GoldenError(
            f"preprocessing the golden examples gave another {name} here than where the bundle was exported: expected "
            f"a difference of at most {TENSOR_TOLERANCE:g}, found {errors[name]:.3g}. This machine's OpenCV decodes or "
            "resizes differently: install the opencv-python that the manifest's provenance names, or export again"
        )
    return errors[name]


def _require(variant: Variant, backend: Backend, difference: npt.NDArray[np.float32]) -> None:
    wrong = np.flatnonzero(~(difference <= variant.golden_tolerance))
    if len(wrong):
        raise GoldenError(
            f"{backend.device} computes something else than the exporter did for variant {variant.name}: expected "
            f"probabilities within {variant.golden_tolerance:g} on {len(difference)} golden examples, found a "
            f"difference of {float(difference.max()):.3g}, {len(wrong)} examples over. Try another --backend or "
            "--precision, or export again"
        )
