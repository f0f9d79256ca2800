"""Compare bundles: each image is decoded once and goes through every model in turn, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from pathlib import Path

from .. import console
from ..console import say
from ..frame import Frame
from ..sources import Sources, open_sources
from .differences import Differences
from .models import Model, open_models
from .report import Json, Listing, Rows, Silent
from .request import CompareRequest
from .tally import Answers, Tally

__all__ = ["DEFAULT_SHEET", "answer", "compare"]

DEFAULT_SHEET = Path("differences.png")
FEW = 20  # up to so many images are listed even where a table of counts would do


def compare(request: CompareRequest) -> int:
    """Run all bundles on the sources and report the comparison.

    Returns:
        The exit code: 1 where a file could not be read, else 0.

    Raises:
        HybridEdgeError: a source or bundle can't be opened, the bundles can't be compared, or an engine failed.
    """
    sources = open_sources(request.sources)
    with open_models(request) as models:
        labels = frozenset(models[0].classifier.labels)
        frames = iter(sources)
        seen = list(_until_readable(frames))
        folders = bool(seen) and _truth(seen[-1], labels) is not None
        listed = not folders or (sources.total is not None and sources.total <= FEW)
        listing = _listing(request, models, listed=listed)
        sheet = request.sheet or (DEFAULT_SHEET if folders else None)
        tally, differences = Tally([model.name for model in models]), Differences()
        with _progress(sources, listed=listed or request.as_json) as shown:
            for item in answer(chain(seen, frames), models, request.batch):
                _take(item, tally, differences, listing)
                shown()
        _finish(tally, differences, listing, sheet)
    return 1 if tally.unreadable else 0


def answer(frames: Iterable[Frame], models: Sequence[Model], batch: int) -> Iterator[Frame | Answers]:
    """Give each frame to every model, a batch at a time, and yield the answers; which model comes first alternates.

    Args:
        frames: the frames in their order; those with an ``error`` are yielded as they are.
        models: open models, all with the same class labels.
        batch: the number of frames that a model is given at a time.

    Raises:
        BackendError: an engine failed.
    """
    labels = frozenset(models[0].classifier.labels)
    frames = iter(frames)
    for number in count():
        chunk = list(islice(frames, batch))
        if not chunk:
            return
        turns = models if number % 2 == 0 else models[::-1]
        found = {model.name: [prediction for _, prediction in model.classifier.stream(chunk)] for model in turns}
        for place, frame in enumerate(chunk):
            predictions = {model.name: found[model.name][place] for model in models}
            known = {name: prediction for name, prediction in predictions.items() if prediction is not None}
            yield Answers(frame, _truth(frame, labels), known) if known else frame


def _take(item: Frame | Answers, tally: Tally, differences: Differences, listing: Listing) -> None:
    """Count one image, and list it; a file that could not be read is named on stderr as well."""
    if isinstance(item, Frame):
        tally.unreadable += 1
        listing.error(item)
        say(f"unreadable: {item.source}: {item.error}", style="yellow")
        return
    tally.add(item)
    differences.add(item)
    listing.image(item)


def _finish(tally: Tally, differences: Differences, listing: Listing, sheet: Path | None) -> None:
    """Write the sheet, if there are differences, and report the comparison."""
    comparison, written = tally.result(), None
    try:
        if sheet is not None and differences.count:
            differences.write(sheet, comparison.images)
            written = str(sheet)
    finally:  # figures that took minutes are not lost with the picture
        listing.end(comparison, written)


def _until_readable(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Yield the first frames, up to one that could be read."""
    for frame in frames:
        yield frame
        if frame.image is not None:
            return


def _truth(frame: Frame, labels: frozenset[str]) -> str | None:
    """Return an image's class, its folder's name where that is a label; else, and for a video, None."""
    name = Path(frame.source).absolute().parent.name
    return name if name in labels and not frame.video else None


def _listing(request: CompareRequest, models: Sequence[Model], *, listed: bool) -> Listing:
    batch = request.batch
    if request.as_json:
        return Json(models, batch, request.top_k)
    return Rows(models, batch) if listed else Silent(models, batch)


@contextmanager
def _progress(sources: Sources, *, listed: bool) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr, unless rows scroll by on the same terminal; yield the function that advances it."""
    if not console.status.is_terminal or (listed and console.stdout.is_terminal):
        yield lambda: None
        return
    with console.progress(unit="images", transient=True) as bar:
        task = bar.add_task("comparing", total=sources.total)
        yield lambda: bar.advance(task)
