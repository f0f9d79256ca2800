"""Proves a running Triton server by a bundle: its golden examples go over the wire and come back as exported.

Each goes alone, beside other rows in one batch, and at once with others so that the server batches them itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from ...runtime.bundle import Bundle
from ...runtime.console import ABSENT, make_table
from ...runtime.errors import GoldenError, ServerError
from ...runtime.golden import TENSOR_TOLERANCE
from .model_config import ENCODED, PREPROCESS, ensemble_name
from .server_client import TritonServer

CLIENTS = 8  # that send at once

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ModelCheck:
    """How near one model of the server came to the exporter: the largest |difference| of a value in each way of asking.

    ``beside`` is NaN where the model takes no batches. ``wrong_labels`` are golden examples under another label than
    the exporter's; ``rows`` went at once, in so many ``executions`` of the model, or of an ensemble's variant,
    as the server counts them, a moment late.
    """

    model: str
    alone: float
    beside: float
    at_once: float
    limit: float
    rows: int
    executions: int
    wrong_labels: int = 0

    @property
    def passed(self) -> bool:
        """Whether no value differs by more than the limit; NaN from a server is never within it."""
        found = [self.alone, self.at_once] if np.isnan(self.beside) else [self.alone, self.beside, self.at_once]
        return all(error <= self.limit for error in found) and not self.wrong_labels


@dataclass(frozen=True)
class ServerCheck:
    """What ``check_server`` found: a ModelCheck for each model of the bundle that the server has, and those it has not.

    ``missing`` are the names of ensembles that the server has not loaded.
    """

    address: str
    models: tuple[ModelCheck, ...]
    missing: tuple[str, ...]

    def require_passed(self) -> None:
        """Raise GoldenError where a model computes something else than the exporter did."""
        wrong = [item.model for item in self.models if not item.passed]
        if wrong:
            raise GoldenError(
                f"{self.address} computes something else than the exporter did: {', '.join(wrong)}; write the "
                "repository again with hybrid-export --triton, of this bundle, and restart the server"
            )


@dataclass(frozen=True)
class _Examples:
    """What is sent to one model, and what must come back: G rows each; ``batcher`` is the model that batches them."""

    model: str
    batcher: str
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    limit: float
    labels: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def error(self, server: TritonServer, rows: Sequence[int]) -> float:
        """Send some of the rows as one request and return the largest |difference|; infinity for NaN."""
        chosen = list(rows)
        found = server.infer(
            self.model, {name: array[chosen] for name, array in self.inputs.items()}, tuple(self.expected)
        )
        worst = 0.0
        for name, array in self.expected.items():
            if found[name].shape != array[chosen].shape:
                raise ServerError(
                    f"{server.address}: {self.model}: expected {name} of shape {array[chosen].shape}, found "
                    f"{found[name].shape}; the server has another bundle's model of that name"
                )
            difference = np.abs(found[name] - array[chosen])
            worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
        return worst


def check_server(address: str, bundle: Bundle) -> ServerCheck:
    """Send a bundle's golden examples to a server, and compare its answers with the exporter's.

    Every model is checked that the server has loaded of the bundle's: preprocessing, each variant, each ensemble.

    Raises:
        ServerError: nothing answers at the address, the server has none of the bundle's models, or one with other
            inputs and outputs, or it fails.
        UsageError: the address has another form than ``http://HOST:PORT`` and its like.
    """
    with TritonServer(address) as server:
        ready = server.ready_models()
        wanted = [item for item in _examples(bundle) if item.model in ready]
        names = [ensemble_name(variant) for variant in bundle.manifest.variants]
        if not any(item.model != PREPROCESS for item in wanted):
            raise ServerError(
                f"{address}: expected one of {', '.join(names)} to be ready, found {', '.join(sorted(ready)) or 'none'}"
                "; load one (--load-model), or write a repository of this bundle with hybrid-export --triton"
            )
        checks = tuple(_check(server, item) for item in wanted)
    return ServerCheck(address, checks, tuple(name for name in names if name not in ready))


def _examples(bundle: Bundle) -> list[_Examples]:
    files = np.array([[bundle.read(item.file)] for item in bundle.manifest.golden.images], dtype=object)
    encoded, tensors = {ENCODED: files}, bundle.golden_tensors()
    found = [_Examples(PREPROCESS, PREPROCESS, encoded, tensors, TENSOR_TOLERANCE)]
    for variant in bundle.manifest.variants:
        expected = {"probabilities": bundle.golden_outputs(variant).probabilities}
        limit = variant.golden_tolerance
        found.append(_Examples(variant.name, variant.name, tensors, expected, limit))
        found.append(_Examples(ensemble_name(variant), variant.name, encoded, expected, limit, bundle.labels))
    return found


def _check(server: TritonServer, examples: _Examples) -> ModelCheck:
    batch = _require_signature(server, examples)
    count = examples.count
    alone = max(examples.error(server, [row]) for row in range(count))
    beside = float("nan")
    if batch > 1:
        beside = max(examples.error(server, rows) for rows in _mixed(count, min(batch, count)))
    _, before = server.counts(examples.batcher)
    at_once = _at_once(server.address, examples)
    executions = server.counts(examples.batcher)[1] - before
    labels = _wrong_labels(server, examples)
    return ModelCheck(examples.model, alone, beside, at_once, examples.limit, CLIENTS * count, executions, labels)


def _require_signature(server: TritonServer, examples: _Examples) -> int:
    """Raise ServerError where a model's inputs or outputs are not the bundle's; return its largest batch."""
    found = server.signature(examples.model)
    sides = ((found.inputs, examples.inputs), (found.outputs, examples.expected))
    for has, arrays in sides:
        needed = {
            name: ("BYTES" if array.dtype == object else "FP32", (-1, *array.shape[1:]))
            for name, array in arrays.items()
        }
        if any(has.get(name) != value for name, value in needed.items()):
            raise ServerError(
                f"{server.address}: {examples.model}: expected {needed}, found {dict(has)}; the server has another "
                "bundle's model of that name"
            )
    return found.batch


def _mixed(count: int, size: int) -> list[list[int]]:
    """Return batches in which each example comes at several places, beside others each time."""
    orders = [[(row * step + step) % count for row in range(count)] for step in (1, count - 1)]
    return [order[first : first + size] for order in orders for first in range(0, count, size)]


def _at_once(address: str, examples: _Examples) -> float:
    """Send the examples one by one from several clients at once; return the largest |difference|."""

    def send(number: int) -> float:
        order = np.roll(np.arange(examples.count), number).tolist()
        with TritonServer(address) as server:
            return max(examples.error(server, [row]) for row in order)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return max(pool.map(send, range(CLIENTS)))


def _wrong_labels(server: TritonServer, examples: _Examples) -> int:
    """Count the examples that the server labels otherwise, of those whose first label is beyond the tolerance."""
    if not examples.labels:
        return 0
    probabilities = examples.expected["probabilities"]
    wrong = 0
    for row in range(examples.count):
        first, second = np.sort(probabilities[row])[[-1, -2]] if len(examples.labels) > 1 else (1.0, 0.0)
        if first - second > 2 * examples.limit:
            chosen = {name: array[[row]] for name, array in examples.inputs.items()}
            (found,) = server.labels(examples.model, chosen, "probabilities")
            wrong += found != " ".join(examples.labels[int(probabilities[row].argmax())].split())
    return wrong


def check_table(check: ServerCheck) -> Table:
    """Make a table of what was found, a line for each model."""
    heads = ("model", "alone", "in a batch", "at once", "limit", "rows", "executions", "")
    rows = [
        (
            item.model,
            *(ABSENT if np.isnan(error) else f"{error:.1e}" for error in (item.alone, item.beside, item.at_once)),
            f"{item.limit:.0e}",
            str(item.rows),
            str(item.executions),
            "passed" if item.passed else f"{item.wrong_labels} wrong labels" if item.wrong_labels else "differs",
        )
        for item in check.models
    ]
    return make_table(f"golden examples by {check.address}: largest difference", heads, rows, text={""})
