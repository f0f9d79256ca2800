"""Find out which instructions this CPU has for 8-bit dot products, which INT8 variants of older bundles depend on.

x86 without VNNI adds pairs of U8 × S8 products in 16 bits and saturates; with it, and on every ARM, nothing does
(ONNX Runtime, "Quantize ONNX models", on U8S8). An export used to write weights that saturate, and named the
instructions that such a variant needs; the weights that it writes now fit into 16 bits in pairs, and run everywhere.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import cache
from pathlib import Path

__all__ = ["INT8_FEATURES", "cpu_features", "describe_cpu", "missing_features"]

CPUINFO = Path("/proc/cpuinfo")
# instructions by the names that Linux gives them; x86, then 64-bit ARM
INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
ARM = ("aarch64", "arm64")


@cache
def cpu_features() -> frozenset[str] | None:
    """Return those of ``INT8_FEATURES`` that this CPU has, or None where the system does not say (not Linux)."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    field = "Features" if platform.machine() in ARM else "flags"  # an emulated ARM may be shown its x86 host's flags
    found = [set(line.partition(":")[2].split()) for line in lines if line.partition(":")[0].strip() == field]
    # a CPU with big and little cores runs a thread on any of them: what counts is what all have
    return frozenset(set.intersection(*found) & set(INT8_FEATURES)) if found else None


def missing_features(needed: Collection[str]) -> bool:
    """Return whether this CPU is known to have none of the features of which a variant needs one.

    Where nothing is needed, nothing is missing. Where the system does not say, nothing counts as missing either: the
    golden check decides. Nor does anything on ARM, which computes the same without them, only slower.
    """
    features = None if platform.machine() in ARM else cpu_features()
    return bool(needed) and features is not None and not features & set(needed)


def describe_cpu() -> str:
    """Describe this CPU in a few words for messages, such as ``x86_64 with avx512_vnni``."""
    features = cpu_features()
    if features is None:
        return f"{platform.machine()}, features unknown"
    return f"{platform.machine()} {'with ' + ', '.join(sorted(features)) if features else 'without INT8 dot products'}"
