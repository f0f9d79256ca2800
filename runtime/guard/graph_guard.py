"""Refuses a graph that an export would not have written, from its own bytes, before any engine reads it.

An engine believes a graph: it opens the files that it names, runs its loops, and allocates what its operators ask for.
So the operators are held against a list, and the size of every tensor is worked out first.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from reprlib import repr as short

from ..errors import BundleError
from ..spec import ModelSpec
from .graph_shapes import CONTRIBUTED_RULES, RULES
from .onnx_file import MAX_RANK, Attribute, GraphFaultError, GraphRecord, Operation, Source, read_graph
from .operator_call import IMAGES, Growing, Known, OperatorCall, Rule

REMEDY = "take no bundle from where this one came from, or export it again with hybrid-export"
# values for one image. The largest tensor of our backbones has 60 times an image's values, DenseNet121's all together
# have 300 times as many, three times that in INT8; small images are given as much as those of 256 pixels
TENSOR_FACTOR, TOTAL_FACTOR, SMALL_IMAGE = 128, 2048, 256 * 256 * 3
WEIGHT_FACTOR = 4  # how often all weights may be rewritten by the graph itself
MAX_TENSOR, MAX_TOTAL = 2**28, 2**31  # 1 GiB in FP32, and 8 GiB: of what is computed one after the other
MAX_WORK = 2**41  # multiply-adds for one image, 250 times those of the largest backbone: minutes on a CPU
DOMAINS: dict[bytes, dict[str, Rule]] = {b"": RULES, b"ai.onnx": RULES, b"com.microsoft": CONTRIBUTED_RULES}
SCAN = b"Scan"  # the CPU's INT8 takes one image at a time; no other loop is written


def check_graph_file(path: Path, spec: ModelSpec) -> None:
    """Refuse a graph's file that no export would have written; its weights are not loaded.

    Raises:
        BundleError: external data, operators, loops, types or sizes that no exported graph has, or no graph at all.
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise GraphFaultError("an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_graph_bytes(data, spec)
    except GraphFaultError as error:
        raise BundleError(f"{path}: expected a graph that hybrid-export wrote, found {error}; {REMEDY}") from None


def check_graph_bytes(data: Source, spec: ModelSpec) -> None:
    """Refuse the bytes of such a graph with a GraphFaultError, as ``check_graph_file`` does."""
    graph = read_graph(data)
    if {*graph.inputs} != {name.encode() for name in spec.inputs}:
        raise GraphFaultError(f"inputs {short(graph.inputs)} in place of {', '.join(spec.inputs)}")
    walk = _Walk(spec)
    walk.run(graph, {name.encode(): Known((IMAGES, *shape)) for name, shape in spec.inputs.items()})


class _Walk:
    """Gives every tensor its shape, and adds up what they need together, for one image."""

    def __init__(self, spec: ModelSpec) -> None:
        image = max(SMALL_IMAGE, *(math.prod(shape) for shape in spec.inputs.values()))
        self._largest = min(TENSOR_FACTOR * image, MAX_TENSOR)
        self._largest_constant = self._largest
        self._total = min(TOTAL_FACTOR * image, MAX_TOTAL)
        self._work = MAX_WORK
        self._images = {name.encode() for name in spec.inputs}
        self._loops = 0

    def run(self, graph: GraphRecord, scope: dict[bytes, Known]) -> dict[bytes, Known]:
        """Return what is known of all tensors."""
        for weight in graph.weights:
            _define(scope, weight.name, Known(weight.shape, weight.values))
            self._allow_for(math.prod(weight.shape))
        for operation in graph.operations:
            found = self._outputs(operation, scope)
            for name, known in zip(operation.outputs, found, strict=False):
                if name:
                    _define(scope, name, known)
        missing = [name for name in graph.outputs if name not in scope]
        if missing:
            raise GraphFaultError(f"outputs that nothing computes: {short(missing)}")
        return scope

    def _allow_for(self, count: int) -> None:
        """A weight may be dequantized, turned and cast: what is as large as one in the file is no bomb."""
        self._largest_constant = max(self._largest_constant, count)
        self._total += WEIGHT_FACTOR * count

    def _outputs(self, operation: Operation, scope: dict[bytes, Known]) -> list[Known]:
        inputs = [_taken(scope, name) if name else None for name in operation.inputs]
        if operation.operator == SCAN and not operation.domain:
            return self._scan(operation, inputs, scope)
        rule = DOMAINS.get(operation.domain, {}).get(operation.operator.decode("latin-1"))
        if rule is not None and any(value.body for value in operation.attributes.values()):
            raise GraphFaultError(f"a graph inside of {operation.operator.decode()}")
        if rule is None:
            named = b".".join(filter(None, (operation.domain, operation.operator)))
            raise GraphFaultError(f"an operator that no exported graph has: {short(named.decode('latin-1'))}")
        call = OperatorCall(operation, inputs)
        try:
            found = rule(call)
        except GraphFaultError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
            shapes = [item.shape if item else None for item in inputs]
            raise GraphFaultError(f"{operation.operator.decode()} of shapes that do not fit: {short(shapes)}") from None
        outputs = found if isinstance(found, list) else [found] * max(len(operation.outputs), 1)
        growing = any(isinstance(size, Growing) for item in (*inputs, *outputs) if item for size in item.shape)
        images = IMAGES if growing else 1
        for known in outputs:
            if len(known.shape) > MAX_RANK:
                raise GraphFaultError(f"a tensor of rank {len(known.shape)}")
            self._claim(operation, math.prod(known.shape) // images, growing)
        self._claim(operation, call.scratch // images, growing)
        self._work -= call.work // images
        if self._work < 0:
            raise GraphFaultError(f"more than {MAX_WORK} multiply-adds for one image")
        return outputs

    def _claim(self, operation: Operation, count: int, growing: bool) -> None:
        self._total -= count
        too_large = count > (self._largest if growing else self._largest_constant)
        if too_large or self._total < 0:
            which = "a tensor" if too_large else "tensors"
            raise GraphFaultError(
                f"{which} of more values than graphs of such images have: {short(count)} an image, by "
                f"{operation.operator.decode()}"
            )

    def _scan(self, operation: Operation, inputs: list[Known | None], scope: dict[bytes, Known]) -> list[Known]:
        """Walk the body of a Scan over the images, which is the one loop that an export writes."""
        body = operation.attributes.get(b"body", Attribute()).body
        one = operation.attributes.get(b"num_scan_inputs", Attribute()).integer == 1 and len(operation.attributes) == 2
        images = inputs[0] if len(inputs) == 1 and operation.inputs[0] in self._images else None
        self._loops += 1
        if body is None or not one or images is None or len(body.inputs) != 1 or self._loops > 1:
            raise GraphFaultError("a Scan that is not one over the images")
        inside = scope | {body.inputs[0]: Known(images.shape[1:])}
        known = self.run(body, inside)
        return [Known((images.shape[0], *known[name].shape)) for name in body.outputs]


def _taken(scope: dict[bytes, Known], name: bytes) -> Known:
    if name not in scope:
        raise GraphFaultError(f"a tensor {short(name)} that nothing computed before it was taken")
    return scope[name]


def _define(scope: dict[bytes, Known], name: bytes, known: Known) -> None:
    if name in scope or not name:
        raise GraphFaultError(f"a tensor {short(name)} that is there twice, or has no name")
    scope[name] = known
