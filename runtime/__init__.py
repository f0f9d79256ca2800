"""hybrid_edge.runtime runs on the device: a bundle and frames come in, predictions go out.

    from hybrid_edge.runtime import Classifier

    with Classifier.load("bundle.tar") as classifier:
        for prediction in classifier.predict(["cat.jpg", frame]):
            print(prediction.label, prediction.probability)

It knows nothing of training, calibration or export, and never imports TensorFlow, Keras, tf2onnx or onnx. Names are
loaded when they are first used: importing this package needs neither OpenCV nor an inference engine, so that a missing
one is a clear error and not a failed import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    ArtifactHashError,
    BackendError,
    BackendUnavailableError,
    BundleError,
    EngineError,
    EngineMissingError,
    GateError,
    GoldenError,
    HybridEdgeError,
    ImageError,
    InputError,
    Int8EngineError,
    SourceError,
    SpecError,
    UsageError,
)
from .lazy import lazy_names

if TYPE_CHECKING:
    from .backends import Backend, Selection, open_backend
    from .bundle import Bundle
    from .classifier import Classifier, Prediction
    from .engines.engine_options import EngineOptions
    from .engines.progress import Reporter
    from .frame import Frame, Outputs
    from .golden import GoldenResult, check_golden
    from .ink import photographed_frame
    from .preprocess import Preprocessor, decode_image, read_image
    from .sources.files import Sources, open_sources
    from .spec import ModelSpec

__all__ = [
    "ArtifactHashError",
    "Backend",
    "BackendError",
    "BackendUnavailableError",
    "Bundle",
    "BundleError",
    "Classifier",
    "EngineError",
    "EngineMissingError",
    "EngineOptions",
    "Frame",
    "GateError",
    "GoldenError",
    "GoldenResult",
    "HybridEdgeError",
    "ImageError",
    "InputError",
    "Int8EngineError",
    "ModelSpec",
    "Outputs",
    "Prediction",
    "Preprocessor",
    "Reporter",
    "Selection",
    "SourceError",
    "Sources",
    "SpecError",
    "UsageError",
    "check_golden",
    "decode_image",
    "open_backend",
    "open_sources",
    "photographed_frame",
    "read_image",
]

_MODULES = {
    "backends": ("Backend", "Selection", "open_backend"),
    "bundle": ("Bundle",),
    "classifier": ("Classifier", "Prediction"),
    "engines.engine_options": ("EngineOptions",),
    "engines.progress": ("Reporter",),
    "frame": ("Frame", "Outputs"),
    "golden": ("GoldenResult", "check_golden"),
    "ink": ("photographed_frame",),
    "preprocess": ("Preprocessor", "decode_image", "read_image"),
    "sources.files": ("Sources", "open_sources"),
    "spec": ("ModelSpec",),
}

if not TYPE_CHECKING:  # a type checker is to see the names above, and no others
    __getattr__ = lazy_names(__name__, {name: module for module, names in _MODULES.items() for name in names})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
