"""Runs hybrid-draw: opens the bundles, shows the window and prints the answers.

What the window needs is imported in ``draw``: the command's help and its mistakes need neither OpenCV nor an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..console import percent, print_json
from ..errors import UsageError
from ..foreign_text import printable
from ..trust import Trust

if TYPE_CHECKING:
    from .readers import Reading

MAX_BUNDLES = 8  # with so many, the window has room for the three best labels of each


@dataclass(frozen=True)
class DrawRequest:
    """Which models to open, how they run, and how the window starts.

    Attributes:
        bundles: folders or tars of bundles, or run folders, at most ``MAX_BUNDLES``, or else UsageError; if empty,
            ``newest_bundles`` finds the newest of each kind.
        trust: what each bundle must be to be opened.
        backend, precision, threads, check: the arguments of ``Classifier.load``.
        thickness: the thickness of the brush at the start, pixels.
        saved: the folder that S saves drawings to.
    """

    bundles: tuple[Path, ...] = ()
    trust: Trust = field(default_factory=Trust)
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    check: bool | None = None
    live: bool = False
    thickness: int = 15
    saved: Path = Path()
    as_json: bool = False

    def __post_init__(self) -> None:
        if len(self.bundles) > MAX_BUNDLES:
            raise UsageError(
                f"expected at most {MAX_BUNDLES} bundles, found {len(self.bundles)}: the window has no room to show "
                "more; leave some out"
            )


def draw(request: DrawRequest) -> None:
    """Open the models and the window, and print every answer that is asked for, until the window is closed.

    Raises:
        UsageError: no window can be opened here.
        BundleError: there is no bundle where one is needed, or it is damaged.
        BackendError: no engine here runs a bundle, or an engine failed.
        GoldenError: this device computes something else than the exporter did.
    """
    from ..outputs.display import require_display  # noqa: PLC0415  # see above
    from .draw_window import DrawWindow  # noqa: PLC0415  # see above
    from .readers import newest_bundles, open_readers  # noqa: PLC0415  # see above

    require_display("hybrid-draw is a window: start it where there is a screen")
    paths = request.bundles or newest_bundles()
    with ExitStack() as closing:
        readers = open_readers(request, paths, closing)
        report: Callable[[Sequence[Reading]], None] = _print_as_json if request.as_json else _print
        DrawWindow(readers, report, live=request.live, thickness=request.thickness, saved=request.saved).run()


def _print(readings: Sequence[Reading]) -> None:
    """Print the answers in one line: ``hybrid: 7 (99.2 %)   cnn: 7 (98.0 %)``."""
    parts = [f"{item.reader}: {item.prediction.label} ({percent(item.prediction.probability)})" for item in readings]
    console.stdout.print(printable("   ".join(parts)), markup=False, soft_wrap=True)


def _print_as_json(readings: Sequence[Reading]) -> None:
    answers = [
        {
            "model": item.reader,
            "variant": item.variant,
            "label": item.prediction.label,
            "probability": item.prediction.probability,
            "probabilities": dict(zip(item.prediction.labels, map(float, item.prediction.probabilities), strict=True)),
        }
        for item in readings
    ]
    print_json({"answers": answers})
