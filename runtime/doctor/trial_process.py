"""The program that tries one thing that may crash or hang: an import, or a bundle's golden examples on one engine.

``sys.argv[1]`` is a JSON object that says what; the last line on stdout is ``MARK`` and a JSON object that says how it
went. Nothing is imported here but Python's own modules until it is tried.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bundle import Bundle

MARK = "hybrid-doctor: "
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def try_import(name: str) -> dict[str, Any]:
    """Import a module and return its version; for ONNX Runtime its providers, for CUDA what it says of GPUs."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0]:
            return {"kind": "absent", "text": str(error)}
        raise
    found: dict[str, Any] = {"kind": "works", "version": str(getattr(module, "__version__", ""))}
    if name == "onnxruntime":
        found["providers"] = [str(item) for item in module.get_available_providers()]
    if name.startswith("cuda."):
        found["cuda"] = " ".join(str(getattr(item, "name", item)) for item in module.cudaGetDeviceCount())
    return found


def _open(request: dict[str, Any]) -> Bundle:
    from ..bundle import Bundle  # noqa: PLC0415  # it loads NumPy and OpenCV
    from ..trust import Trust  # noqa: PLC0415

    trust = Trust(tuple(request["trust"]["fingerprints"]), request["trust"]["signer"])
    return Bundle.open(request["bundle"], trust)


def list_variants(request: dict[str, Any]) -> dict[str, Any]:
    """Open a bundle and name its variants with their targets; ``none`` where no bundle is named and none is found."""
    from ..bundle import USUAL_PLACES  # noqa: PLC0415

    if request["bundle"] is None and not any(map(os.path.exists, USUAL_PLACES)):
        return {"kind": "none"}
    opened = _open(request)
    variants = [[item.name, item.target] for item in opened.manifest.variants]
    return {"kind": "works", "root": str(opened.root), "variants": variants}


def try_variant(request: dict[str, Any]) -> dict[str, Any]:
    """Run a bundle's golden examples through one variant on the engine it was made for."""
    from ..backends import open_variant  # noqa: PLC0415
    from ..engines.engine_options import EngineOptions  # noqa: PLC0415
    from ..golden import prove_golden  # noqa: PLC0415
    from ..preprocess import Preprocessor  # noqa: PLC0415

    opened = _open(request)
    variant = next(item for item in opened.manifest.variants if item.name == request["variant"])
    selection = open_variant(opened, variant, engine=EngineOptions(build=request["build"]))
    with selection.backend as backend:
        golden = prove_golden(opened, variant, backend, Preprocessor(opened.spec), anew=True)
        return {
            "kind": "works",
            "device": backend.device,
            "error": golden.probability_error,
            "tolerance": golden.tolerance,
            "milliseconds": golden.milliseconds,
        }


def _try(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "module" in request:
            return try_import(request["module"])
        if "variant" in request:
            return try_variant(request)
        return list_variants(request)
    except (Exception, SystemExit) as error:  # a broken library may raise anything, and end the process
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"kind": "error", "kinds": kinds, "text": f"{error}" or type(error).__name__}


def main() -> None:
    """Try what ``sys.argv[1]`` asks for, and print how it went.

    The kernel is asked to end this process with its parent, which would have ended it where it hangs.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):  # where memory ends, this process is to be killed, and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    found = _try(json.loads(sys.argv[1]))
    sys.stdout.flush()
    print(f"\n{MARK}{json.dumps(found)}", flush=True)  # noqa: T201
