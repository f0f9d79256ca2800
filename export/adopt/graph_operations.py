"""Which operations of TensorFlow's graphs are pure mathematics; all else in a SavedModel is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from ...runtime.errors import ModelFileError
from .layer_settings import words

SPARE = 2**26  # elements that constants may have beside those whose values are written out
MAX_NODES = 200_000  # EfficientNetV2L has 10,000
MATHEMATICS = words(
    """
    Abs Add AddN AddV2 ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd
    BroadcastTo Cast Ceil ClipByValue ConcatV2 Const Conv2D Conv2DBackpropInput Cos Cosh DepthToSpace
    DepthwiseConv2dNative Div DivNoNan Einsum Elu EnsureShape Equal Erf Erfc Exp ExpandDims Expm1 Fill Floor
    FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherV2 Greater GreaterEqual
    Identity IdentityN LRN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul
    Max MaxPool MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mul Neg NoOp NotEqual OneHot OnesLike Pack Pad
    PadV2 Placeholder PlaceholderWithDefault Pow Prod Range Rank RealDiv Reciprocal Relu Relu6 Reshape
    ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt Select SelectV2 Selu Shape Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square
    SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tan Tanh Tile TopKV2 Transpose Unpack ZerosLike
    """
)
CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))
VARIABLES = frozenset(("VarHandleOp", "ReadVariableOp"))
# refused wherever they stand, in a function that nothing calls too; only the saver's own functions have the last three
HARMFUL = words(
    """
    PyFunc PyFuncStateless EagerPyFunc ReadFile WriteFile MatchingFiles WholeFileReader WholeFileReaderV2
    FixedLengthRecordReader FixedLengthRecordReaderV2 TextLineReader TextLineReaderV2 TFRecordReader
    TFRecordReaderV2 TextLineDataset TFRecordDataset TFRecordDatasetV2 FixedLengthRecordDataset
    FixedLengthRecordDatasetV2 InitializeTableFromTextFile InitializeTableFromTextFileV2 Print PrintV2 Save
    SaveSlices Restore RestoreSlice XlaHostCompute Send Recv _Send _Recv RemoteCall LookupTableExportV2
    DebugIdentity DebugIdentityV2 DebugNumericSummary DumpFile CreateSummaryFileWriter WriteSummary
    WriteRawProtoSummary WriteScalarSummary SaveDataset SaveDatasetV2 LoadDataset AssetsDataset DistributedSave
    SnapshotDataset SnapshotDatasetV2 CacheDataset CacheDatasetV2 SaveV2 RestoreV2 MergeV2Checkpoints
    """
)
SAVING = frozenset(("SaveV2", "RestoreV2", "MergeV2Checkpoints"))
LOOPS = words(
    """
    While StatelessWhile If StatelessIf Case StatelessCase For Enter Exit Merge Switch LoopCond NextIteration
    """
)


def check_saved(graph: Any, outputs: Iterable[str], saver: Iterable[str]) -> None:
    """Check the graph of a SavedModel, a GraphDef with functions, for what leads to ``outputs``, names of tensors.

    ``saver`` are the tensors by which TensorFlow saves and restores.

    Raises:
        ModelFileError: an operation that leads there is not pure mathematics, or one anywhere reads or writes files or
            runs code; it is named.
    """
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    saving = {name for node in (nodes.get(_node(name)) for name in saver) if node is not None for name in _called(node)}
    saving |= _reachable(saving, functions)
    for name, body in [("", list(graph.node)), *functions.items()]:
        for node in body:
            if node.op in HARMFUL and not (name in saving and node.op in SAVING):
                raise ModelFileError(_refusal(node, "reads or writes files, or runs code"))
    served = _leading_to([_node(name) for name in outputs], nodes)
    called = _reachable({name for node in served for name in _called(node)}, functions)
    check_operations([*served, *(node for name in called for node in functions[name])], MATHEMATICS | CALLS | VARIABLES)
    sizes: dict[str, int] = {}
    if sum(_unfolded(node, functions, sizes) for node in served) > MAX_NODES:
        raise ModelFileError(f"its functions call each other or themselves: over {MAX_NODES} operations; refused")


def _unfolded(node: Any, functions: dict[str, Any], sizes: dict[str, int]) -> int:
    """Return how many operations a node becomes when all that it calls is put in its place."""
    for name in _called(node):
        if name not in sizes:
            sizes[name] = MAX_NODES + 1  # while it is counted: what calls itself has no end
            sizes[name] = sum(_unfolded(inner, functions, sizes) for inner in functions.get(name, ()))
    return 1 + sum(sizes[name] for name in _called(node))


def check_operations(nodes: Iterable[Any], allowed: frozenset[str]) -> None:
    """Refuse the first operation that is not allowed.

    Raises:
        ModelFileError: an operation is another; the message names it and what would help.
    """
    for node in nodes:
        if node.op in LOOPS or node.op.startswith(("TensorList", "TensorArray", "CudnnRNN")):
            raise ModelFileError(
                f"the operation {node.op} ({node.name[:100]!r}) is a loop, of a recurrent layer perhaps, which "
                "can't be converted from a SavedModel; give the .keras or the .h5 of the model"
            )
        if node.op not in allowed:
            raise ModelFileError(_refusal(node, "is not pure mathematics on numbers"))


def check_constants(nodes: Iterable[Any], written: int) -> None:
    """Refuse constants that claim far more elements than ``written`` bytes hold: one value can stand for all of them.

    Raises:
        ModelFileError: they do.
    """
    left = written + SPARE
    for node in nodes:
        if node.op == "Const":
            left -= math.prod(max(0, size.size) for size in node.attr["value"].tensor.tensor_shape.dim)
            if left < 0:
                raise ModelFileError(f"the constant {node.name[:100]!r} claims more elements than the file holds")


def _refusal(node: Any, reason: str) -> str:
    return (
        f"the operation {node.op[:100]} ({node.name[:100]!r}) {reason}; it is refused. Export a model of layers of "
        "Keras alone: model.export(FOLDER), or give its .keras"
    )


def _node(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def _called(node: Any) -> Iterator[str]:
    """Yield the names of the functions that a node calls or is given."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _reachable(names: Iterable[str], functions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    left = [name for name in names if name in functions]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [other for node in functions[name] for other in _called(node) if other in functions]
    return found


def _leading_to(names: list[str], nodes: dict[str, Any]) -> list[Any]:
    found: dict[str, Any] = {}
    left = [name for name in names if name in nodes]
    while left:
        name = left.pop()
        if name not in found:
            found[name] = nodes[name]
            left += [_node(tensor) for tensor in nodes[name].input if _node(tensor) in nodes]
    return list(found.values())
