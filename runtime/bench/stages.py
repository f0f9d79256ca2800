"""Tell where an engine's time goes, by counting the nodes of a profile to the model's branches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from ..spec import ModelSpec

__all__ = ["branch_of", "branch_shares"]

# export names every node of a branch after it; an engine's fused nodes keep the names they are made from, or list them:
# "fused cnn/dense_1/MatMul", "{ForeignNode[rnn/lstm_1/step_00/...]}", "__myl_FcMul_myl3_7 [ONNX Layer: rnn/lstm_1/...]"
PREFIX = re.compile(r"(?<![A-Za-z0-9_])(cnn|rnn)/")
# the first thing that is done with an input carries its name
INPUT = re.compile(r"(?:^|\[ONNX Layer: )(image|sequence)(?![A-Za-z0-9])")
# the nodes that ONNX Runtime inserts to change the layout for convolutions have no name but their kind
LAYOUT = re.compile(r"^(Reorder(Input|Output)|Transpose)(_token_\d+)?$")
NAMES = {"cnn": "cnn", "image": "cnn", "rnn": "recurrent", "sequence": "recurrent"}
# share of the time in nodes that are made of both branches, above which the shares would say little of the branches
MOST_UNSPLIT = 0.5


def branch_of(node: str, spec: ModelSpec) -> str:
    """Return a node's branch by its name, ``cnn``, ``recurrent`` or ``head``; of two, the one it names more often."""
    named = _named(node)
    if named:
        return named.most_common(1)[0][0]
    if LAYOUT.match(node):
        return "cnn" if spec.uses_cnn else "recurrent"
    return "head"


def branch_shares(nodes: Mapping[str, float], spec: ModelSpec) -> dict[str, float]:
    """Return the shares of a profile's time by branch, which add up to 1, for the branches that the model has.

    Args:
        nodes: time by the node's name, in any unit.
        spec: the model's spec.

    Returns:
        Shares in the order ``cnn``, ``recurrent``, ``head``; an empty mapping where no time was spent, or most of it in
        nodes of both branches, as in an engine that TensorRT made one node of.
    """
    total = sum(nodes.values())
    unsplit = sum(time for node, time in nodes.items() if len(_named(node)) > 1)
    if total <= 0 or unsplit > MOST_UNSPLIT * total:
        return {}
    wanted = [("cnn", spec.uses_cnn), ("recurrent", spec.uses_rnn), ("head", True)]
    shares = {name: 0.0 for name, present in wanted if present}
    for node, time in nodes.items():
        branch = branch_of(node, spec)
        shares[branch if branch in shares else "head"] += time / total
    return shares


def _named(node: str) -> Counter[str]:
    """Count how often a node's name has each branch; where it has none, the branch whose input it names."""
    return Counter(NAMES[found] for found in PREFIX.findall(node) or INPUT.findall(node))
