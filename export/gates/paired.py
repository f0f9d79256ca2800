"""Compares the accuracy of two classifiers on the same labelled images, with the interval of its difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...runtime.manifest import Accuracy

__all__ = ["class_indices", "paired_accuracy", "paired_interval"]

Z = 1.959963984540054  # the quantile of the normal distribution, 95 % two-sided


def paired_accuracy(
    keras: npt.NDArray[np.int64],
    variant: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    max_drop: float | None = None,
) -> Accuracy:
    """Compute the top-1 accuracy of both sides, and the drop from Keras to the variant with its 95 % interval.

    Args:
        keras: Keras's labels, (N,), N >= 1.
        variant: the variant's labels, (N,).
        truth: the true labels, (N,).
        max_drop: the limit that is recorded with the drop.
    """
    right, still = keras == truth, variant == truth
    count, lost, gained = len(truth), int((right & ~still).sum()), int((~right & still).sum())
    low, high = paired_interval(lost, gained, count)
    return Accuracy(
        keras=int(right.sum()) / count,
        variant=int(still.sum()) / count,
        # computed from the counts: the difference of two rounded shares would put 1 of 200 above a limit of 0.005
        drop=(lost - gained) / count,
        drop_low=low,
        drop_high=high,
        max_drop=max_drop,
    )


def paired_interval(lost: int, gained: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of (lost - gained) / count, by Bonett and Price's adjusted Wald method.

    One image is added to either side of the disagreement. So the interval keeps a width where nothing disagrees, where
    Wald's and Newcombe's shrink to nothing: 0 of 300 says "at most 0.9 points", not "none". D. G. Bonett, R. M. Price,
    J. Educ. Behav. Stat. 37 (2012) 479; recommended for small samples by M. W. Fagerland, S. Lydersen, P. Laake, Stat.
    Med. 33 (2014) 2850.

    Args:
        lost: the number of images that only Keras has right.
        gained: the number of images that only the variant has right.
        count: the number of all images, at least 1.
    """
    total = count + 2
    first, second = (lost + 1) / total, (gained + 1) / total
    middle = first - second
    half = Z * float(np.sqrt((first + second - middle**2) / total))
    return max(-1.0, middle - half), min(1.0, middle + half)


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the index of each label among the classes, -1 where it is none of them; (N,) int64."""
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index.get(label, -1) for label in labels], np.int64)
