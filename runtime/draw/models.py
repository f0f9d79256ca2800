"""Open the models that look at a drawing, give each a name of its own, and ask one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ... import runtime
from ..bundle import Bundle
from ..classifier import Classifier, Prediction, announce
from ..console import waiting
from ..engines.progress import make_reporter
from ..opencv import cv2
from .request import Request

__all__ = ["Answer", "Model", "answers", "open_models"]


@dataclass(frozen=True)
class Model:
    """This is an open bundle under the name that the window shows."""

    name: str
    classifier: Classifier

    @property
    def variant(self) -> str:
        """The name of the variant that was taken from the bundle."""
        return self.classifier.selection.variant.name


@dataclass(frozen=True)
class Answer:
    """This is what one model says about a drawing."""

    model: str
    variant: str
    prediction: Prediction


def open_models(request: Request, paths: Sequence[Path], opened: ExitStack) -> list[Model]:
    """Open bundles and check them, in their order; ``opened`` closes them.

    Raises:
        BundleError: a bundle is missing, malformed or damaged.
        BackendError: no engine here runs a bundle.
        GoldenError: this device computes something else than the exporter did.
    """
    bundles = [Bundle.open(path) for path in paths]
    models = []
    for bundle, name in zip(bundles, _names(bundles, paths), strict=True):
        with waiting(f"opening {name}") as stop:
            classifier = runtime.Classifier.load(
                bundle,
                backend=request.backend,
                precision=request.precision,
                batch_size=1,
                threads=request.threads,
                check=request.check,
                reporter=make_reporter(stop),
            )
        opened.enter_context(classifier)
        announce(classifier)
        models.append(Model(name, classifier))
    return models


def answers(models: Sequence[Model], frame: npt.NDArray[np.uint8]) -> list[Answer]:
    """Ask every model about the same frame, (H, W) uint8 gray.

    Raises:
        BackendError: an engine failed.
    """
    image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), np.uint8)
    return [Answer(model.name, model.variant, model.classifier.predict([image])[0]) for model in models]


def _names(bundles: Sequence[Bundle], paths: Sequence[Path]) -> list[str]:
    """Return the models' names: their branches where these differ, else folders or files, with numbers where needed."""
    branches = [bundle.spec.branches for bundle in bundles]
    if _differ(branches):
        return list(branches)
    folders = [_own_name(path) for path in paths]
    return folders if _differ(folders) else [f"{number}: {name}" for number, name in enumerate(folders, start=1)]


def _differ(names: Sequence[str]) -> bool:
    return max(Counter(names).values(), default=0) <= 1


def _own_name(path: Path) -> str:
    """Return NAME for ``runs/NAME/bundle``, ``runs/NAME`` and ``NAME.tar``."""
    whole = path.resolve()
    return whole.parent.name if whole.name == "bundle" else whole.stem
