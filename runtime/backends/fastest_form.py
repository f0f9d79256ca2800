"""Whether LSTM operators or unrolled steps are faster differs by GPU, so a device builds both and times them, once."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from ..bundle import Bundle
from ..engines.cache import EngineCache
from ..engines.engine_options import EngineOptions
from ..engines.progress import Reporter
from ..errors import (
    BackendError,
    BackendUnavailableError,
    EngineError,
    EngineMissingError,
    GateError,
    HybridEdgeError,
    Int8EngineError,
)
from ..golden import check_golden
from ..manifest import Variant
from ..preprocess import Preprocessor
from ..timing import Timing, time_interleaved
from .base import Backend, Tensor
from .tensorrt import TensorRtBackend, find_tensorrt


def open_fastest_form(
    bundle: Bundle, variants: Sequence[Variant], options: EngineOptions, reporter: Reporter
) -> tuple[Backend, Variant]:
    """Open the TensorRT variants of one precision, and keep the fastest that passes its golden check.

    Where there are several, all are built, timed side by side at the profile's usual batch, and the choice is kept in
    the engine cache: the next start loads only that one. Errors are those of ``open_variant``, EngineError where no
    variant builds, and GoldenError where no variant that builds computes what the exporter did.
    """
    if len(variants) == 1:
        return _open(bundle, variants[0], options, reporter), variants[0]
    cache, note = EngineCache(), _note_name(variants, options)
    known = next((item for item in variants if item.file.sha256 == _remembered(cache, note)), None)
    if known is not None:
        return _open(bundle, known, options, reporter), known
    with ExitStack() as stack:
        opened, refused = _open_all(bundle, variants, options, reporter, stack)
        timings = _time(bundle, opened, options) if len(opened) > 1 else {}
        name = min(timings, key=lambda item: timings[item].p50) if timings else next(iter(opened))
        taken = next(item for item in variants if item.name == name)
        times = {key: round(timing.p50, 3) for key, timing in timings.items()}
        if not any(isinstance(error, EngineMissingError) for error in refused.values()):  # those are still to be timed
            choice = json.dumps({"sha256": taken.file.sha256, "variant": name, "p50_ms": times}).encode()
            cache.keep_note(
                note, choice, lambda reason: reporter.say(f"{reason}; the forms are timed again at the next start")
            )
        if times:
            reporter.say(f"{', '.join(f'{key} {value:.2f} ms' for key, value in times.items())}: taking {name}")
        backend = opened.pop(name)
        stack.pop_all()
    for other in opened.values():
        other.close()
    return backend, taken


def _open_all(
    bundle: Bundle, variants: Sequence[Variant], options: EngineOptions, reporter: Reporter, stack: ExitStack
) -> tuple[dict[str, Backend], dict[str, HybridEdgeError]]:
    """Open each variant that builds and passes its golden check, closed with the stack; return the others' errors."""
    preprocessor = Preprocessor(bundle.spec)
    opened: dict[str, Backend] = {}
    refused: dict[str, HybridEdgeError] = {}
    for variant in variants:
        with ExitStack() as attempt:
            try:
                backend = attempt.enter_context(_open(bundle, variant, options, reporter))
                check_golden(bundle, variant, backend, preprocessor)
            except BackendUnavailableError:
                raise  # TensorRT does not start here, and would not for the other form
            except (BackendError, GateError) as error:
                refused[variant.name] = error
                reporter.say(f"passed over {variant.name}: {error}")
            else:
                opened[variant.name] = backend
                stack.push(attempt.pop_all())
    if not opened:
        raise _refusal(refused)
    return opened, refused


def _refusal(refused: dict[str, HybridEdgeError]) -> HybridEdgeError:
    """Make the error where no form is left, of the kind that the user can do most about."""
    missing = [error for error in refused.values() if isinstance(error, EngineMissingError)]
    if missing:
        return missing[0]  # one command builds all of them
    text = "; ".join(f"{name}: {error}" for name, error in refused.items())
    kinds = [type(error) for error in refused.values()]
    gates = [kind for kind in kinds if issubclass(kind, GateError) and kind is not Int8EngineError]
    if gates:
        return gates[0](text)
    return Int8EngineError(text) if Int8EngineError in kinds else EngineError(text)


def _time(bundle: Bundle, opened: dict[str, Backend], options: EngineOptions) -> dict[str, Timing]:
    batch = options.profile[1]
    tensors: dict[str, Tensor] = {
        name: np.resize(tensor, (batch, *tensor.shape[1:])) for name, tensor in bundle.golden_tensors().items()
    }
    return time_interleaved({name: lambda backend=backend: backend.run(tensors) for name, backend in opened.items()})  # type: ignore[misc]


def _open(bundle: Bundle, variant: Variant, options: EngineOptions, reporter: Reporter) -> Backend:
    try:
        return TensorRtBackend(
            bundle.verified(variant.file), bundle.spec, sha256=variant.file.sha256, options=options, reporter=reporter
        )
    except EngineMissingError as error:
        command = f"hybrid-export --engine-only {shlex.quote(str(bundle.root))}{options.arguments}"
        raise EngineMissingError(f"{error}; {command} builds it, or leave out --no-build") from None


def _note_name(variants: Sequence[Variant], options: EngineOptions) -> str:
    """Name the note by all that the choice depends on: graphs, TensorRT's version, GPU, and how engines are built."""
    library, gpu = find_tensorrt()
    hashes = sorted(item.file.sha256 for item in variants)
    machine = [library.label, gpu.name, gpu.compute_capability, gpu.multiprocessors]
    key = [hashes, *machine, options.profile, options.workspace]
    return f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.choice"


def _remembered(cache: EngineCache, note: str) -> str | None:
    content = cache.read_note(note)
    return None if content is None else str(json.loads(content)["sha256"])
