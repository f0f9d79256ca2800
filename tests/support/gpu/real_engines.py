"""What the tests on a GPU share: a variant, opened as an engine, inputs for it, and batches on their way."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from hybrid_edge.runtime.backends import Backend
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.errors import Int8EngineError
from hybrid_edge.runtime.frame import Outputs
from hybrid_edge.runtime.manifest import Variant
from hybrid_edge.runtime.preprocess import Preprocessor


@contextmanager
def opened(
    bundle: Bundle,
    variant: Variant,
    options: EngineOptions | None = None,
    *,
    graphs: bool = True,
    reporter: Reporter | None = None,
) -> Iterator[TensorRtBackend]:
    """The variant as an engine; a device on which INT8 does not build is a known case, not a failure."""
    file, sha256 = bundle.verified(variant.file), variant.file.sha256
    try:
        backend = TensorRtBackend(file, bundle.spec, sha256=sha256, options=options, graphs=graphs, reporter=reporter)
    except Int8EngineError as error:
        pytest.xfail(str(error))
    with backend:
        yield backend


def tensors(bundle: Bundle, count: int) -> dict[str, Any]:
    """Of the golden examples, as often as it takes, each time turned another way."""
    images = list(bundle.golden_images())
    frames = [np.rot90(images[row % len(images)], row // len(images)).copy() for row in range(count)]
    return Preprocessor(bundle.spec)(frames)


def pipelined(backend: Backend, batches: list[dict[str, Any]], capacity: int) -> list[Outputs]:
    """All batches with as many under way as the backend takes: the next is written while others are on the GPU."""
    free = deque(backend.buffers(capacity, backend.depth + 1))
    tickets: deque[Any] = deque()
    found = []
    for batch in batches:
        buffers = free.popleft()
        rows = fill(buffers, batch)
        tickets.append(backend.submit(buffers, rows))
        if len(tickets) == backend.depth:
            found.append(backend.collect(tickets[0]))
            free.append(tickets.popleft().buffers)
            for array in free[-1].tensors.values():
                array.fill(np.nan)  # what preprocessing does next must not reach a batch under way
    return found + [backend.collect(ticket) for ticket in tickets]


def fill(buffers: Any, batch: dict[str, Any]) -> int:
    """Write a batch into the first rows, and give their number."""
    for name, tensor in batch.items():
        buffers.tensors[name][: len(tensor)] = tensor
    return len(next(iter(batch.values())))
