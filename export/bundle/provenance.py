"""Records where a bundle comes from; running the bundle needs none of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from ... import __version__
from ...runtime.manifest import Provenance
from ..export_request import ExportRequest

__all__ = ["made_by", "provenance"]

MADE_BY = ("tensorflow", "keras", "tf2onnx", "onnx")
PACKAGES = (*MADE_BY, "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "numpy", "opencv-python")


def made_by() -> dict[str, str]:
    """Return the versions of the packages that made an artifact, by the package's name."""
    return {"hybrid-edge": __version__, **_versions(MADE_BY)}


def provenance(request: ExportRequest) -> Provenance:
    """Record when, by which packages and from which run the bundle is made."""
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        hybrid_edge=__version__,
        run=request.run,
        packages=_versions(PACKAGES),
        metrics=request.metrics,
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {package: _version(package) for package in packages}
    return {package: number for package, number in found.items() if number}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # one of onnxruntime and onnxruntime-gpu, OpenCV under another name, or JetPack's TensorRT
