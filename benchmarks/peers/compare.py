"""How many times longer the peers take than ours, from the pairs of each round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from interleave import Timings

from .catalogue import REFERENCE, Peer

__all__ = ["compare"]


def compare(
    peers: Mapping[str, Peer], timings: Mapping[int, Timings], judged: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Our fastest variant against Keras and against the fastest peer, and our FP32 against the fastest FP32 peer.

    Who fails the accuracy gate is not compared, on either side.

    Returns:
        for each batch size and question: ``batch``, ``question``, ``ours``, ``peer``, ``ratio`` of the medians (above
        1: the peer takes longer), and ``ratio_p10`` and ``ratio_p90`` of the rounds' own ratios.
    """
    fit = [name for name in peers if judged[name].get("passed", True)]
    ours, others = ([name for name in fit if peers[name].ours is own] for own in (True, False))
    rows = []
    for batch, times in timings.items():
        questions = {
            f"{REFERENCE}": (ours, [name for name in others if name == REFERENCE]),
            "the fastest peer": (ours, others),
            "the fastest peer in FP32": _fp32(peers, ours, others),
        }
        for question, (left, right) in questions.items():
            if left and right:
                rows.append(
                    {"batch": batch, "question": question, **_ratio(times, _best(times, left), _best(times, right))}
                )
    return rows


def _fp32(peers: Mapping[str, Peer], *sides: Sequence[str]) -> tuple[list[str], ...]:
    return tuple([name for name in side if peers[name].precision == "FP32"] for side in sides)


def _best(times: Timings, names: Iterable[str]) -> str:
    return min(names, key=lambda name: float(np.median(times[name])))


def _ratio(times: Timings, ours: str, peer: str) -> dict[str, Any]:
    rounds = np.array(times[peer]) / np.array(times[ours])
    ratio = float(np.median(times[peer]) / np.median(times[ours]))
    low, high = (float(value) for value in np.percentile(rounds, (10, 90)))
    return {"ours": ours, "peer": peer, "ratio": ratio, "ratio_p10": low, "ratio_p90": high}
