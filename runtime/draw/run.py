"""Run hybrid-draw: open the bundles, show the window and print the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from .. import console
from ..console import printable
from ..outputs.display import require_display
from .models import Answer, open_models
from .newest import newest_bundles
from .request import Request
from .window import ELSEWHERE, DrawWindow

__all__ = ["draw"]


def draw(request: Request) -> None:
    """Open the models and the window, and print every answer that is asked for, until the window is closed.

    Raises:
        UsageError: no window can be opened here.
        BundleError: there is no bundle where one is needed, or it is damaged.
        BackendError: no engine here runs a bundle, or an engine failed.
        GoldenError: this device computes something else than the exporter did.
    """
    require_display(ELSEWHERE)
    paths = request.bundles or newest_bundles()
    with ExitStack() as opened:
        models = open_models(request, paths, opened)
        report: Callable[[Sequence[Answer]], None] = _print_json if request.as_json else _print
        DrawWindow(models, report, live=request.live, thickness=request.thickness, saved=request.saved).run()


def _print(answers: Sequence[Answer]) -> None:
    """Print the answers in one line: ``hybrid: 7 (99.2 %)   cnn: 7 (98.0 %)``."""
    parts = [
        f"{answer.model}: {answer.prediction.label} ({100 * answer.prediction.probability:.1f} %)" for answer in answers
    ]
    console.stdout.print(printable("   ".join(parts)), markup=False, soft_wrap=True)


def _print_json(answers: Sequence[Answer]) -> None:
    said = [
        {
            "model": answer.model,
            "variant": answer.variant,
            "label": answer.prediction.label,
            "probability": answer.prediction.probability,
            "probabilities": dict(
                zip(answer.prediction.labels, map(float, answer.prediction.probabilities), strict=True)
            ),
        }
        for answer in answers
    ]
    console.stdout.print(json.dumps({"answers": said}), markup=False, soft_wrap=True)
