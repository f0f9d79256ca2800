"""Compares versions of installed libraries, and knows what is said of ONNX Runtime's at a start; loads no library."""

from __future__ import annotations

import re
import sys

# a release's numbers, after an epoch; no longer than any real one, as the text is a foreign file's
RELEASE = re.compile(r"(?:\d{1,4}!)?(\d{1,9}(?:\.\d{1,9}){0,5})")
# as pyproject.toml asks for: the first ONNX Runtime without known holes, and the last one for Python 3.10
SAFE_ONNXRUNTIME = "1.31"
LAST_ONNXRUNTIME_FOR_PYTHON_310 = "1.23.2"


def release(version: str | None) -> tuple[int, ...]:
    """Return a version's release as numbers, ``12.6.2.post1`` as (12, 6, 2); empty where there is none to see."""
    found = RELEASE.match((version or "").strip().lstrip("vV"))
    return tuple(map(int, found[1].split("."))) if found else ()


def below(version: str | None, bound: str) -> bool:
    """Return whether a version is known, and earlier than ``bound``."""
    numbers, limit = release(version), release(bound)
    return bool(numbers) and numbers + (0,) * (len(limit) - len(numbers)) < limit


def onnxruntime_remark(version: str, python: tuple[int, ...] = sys.version_info[:2]) -> str | None:
    """Return what is known against this ONNX Runtime on this Python, on one line; None where nothing is."""
    if python < (3, 11):
        if below(version, LAST_ONNXRUNTIME_FOR_PYTHON_310):
            return (
                f"expected ONNX Runtime {LAST_ONNXRUNTIME_FOR_PYTHON_310}, found {version}, which has more known holes:"
                f" pip install -U 'onnxruntime>={LAST_ONNXRUNTIME_FOR_PYTHON_310}'"
            )
        if below(version, SAFE_ONNXRUNTIME):
            return (
                f"ONNX Runtime {version} is the last for Python 3.10, and has holes that {SAFE_ONNXRUNTIME} closed: "
                "run bundles that you trust, or take Python 3.11 or later"
            )
    elif below(version, SAFE_ONNXRUNTIME):
        return (
            f"expected ONNX Runtime {SAFE_ONNXRUNTIME} or later, found {version}, which has known holes: "
            "pip install -U 'hybrid-edge[cpu]', or hybrid-edge[gpu] with driver 580"
        )
    return None
