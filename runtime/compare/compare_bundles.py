"""Open several bundles, give each image to every model in turn, a batch at a time, and report how they compare.

The pipeline of ``hybrid-infer`` is not used: it reads, preprocesses and infers on several threads at once, while the
times that are compared here are those of one model that has the machine for itself. Each image is decoded once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from .. import console
from ..bundle import Bundle, bundle_names
from ..classifier import load_announced
from ..console import say
from ..errors import BundleError, UsageError
from ..frame import Frame
from ..sources.files import open_sources
from ..sources.media_files import describe_left_out
from ..sources.names import parse_live
from ..storage import check_writable
from ..trust import Trust
from .answers import Answers, ComparedModel, ComparisonTally
from .difference_sheet import Differences
from .printing import JsonReport, TextReport

DEFAULT_SHEET = Path("differences.png")
MAX_LISTED_IMAGES = 20  # up to so many are listed even where a table of counts would do
MAX_LISTED_LABELS = 5  # labels that only one bundle has, as many as an error lists


def compare_bundles(
    sources: Sequence[str],
    bundle: Path | None,
    others: Sequence[Path],
    *,
    trust: Trust | None = None,
    sheet: Path | None = None,
    as_json: bool = False,
    top_k: int = 5,
    batch_size: int = 8,
    **settings: Any,
) -> int:
    """Run several bundles on the same images, print how their answers compare, and return the exit code.

    ``bundle`` is the first of them; None looks in the usual places. Each must be what ``trust`` asks for. ``sheet`` is
    the PNG of images on which the models differ; None means ``differences.png`` for class folders, and no PNG for other
    sources. ``top_k`` labels of each answer are in the JSON. ``settings`` are what else ``Classifier.load`` takes, for
    every bundle. The exit code is 1 where a file could not be read, else 0.

    Raises:
        HybridEdgeError: a source or bundle can't be opened, the bundles can't be compared, the sheet can't be written,
            or an engine failed.
    """
    if any(parse_live(name) for name in sources):
        raise UsageError(
            "expected images, folders, globs or videos, which every bundle can be given; found a camera or a stream; "
            "record it first with hybrid-infer --save FILE.mp4"
        )
    if sheet is not None:
        check_writable("--sheet", sheet, ".png")
    images = open_sources(sources)
    if left_out := describe_left_out(images.left_out):
        say(left_out)
    with _open_models(find_bundles(bundle, others, trust), batch_size=batch_size, **settings) as models:
        frames = iter(images)
        first = list(islice(frames, 1))
        folders = any(_truth(frame, models) is not None for frame in first)
        listed = not folders or (images.total is not None and images.total <= MAX_LISTED_IMAGES)
        report = JsonReport(top_k) if as_json else TextReport(models, listed=listed)
        tally, differences = ComparisonTally(models), Differences()
        bar = console.progress(unit="images", transient=True)
        bar.disable |= (listed or as_json) and console.stdout.is_terminal  # rows scroll by there
        with bar:
            items = _ask(chain(first, frames), models, batch_size)
            for item in bar.track(items, images.total, description="comparing"):
                if isinstance(item, Answers):
                    differences.add(item)
                else:
                    say(f"unreadable: {item.source}: {item.error}", style="yellow")
                tally.add(item)
                report.image(item)
        figures = {**tally.figures(), "batch": batch_size, "sheet": None}
        try:
            if differences.count and (path := sheet or (DEFAULT_SHEET if folders else None)):
                differences.write(path, figures["images"])
                figures["sheet"] = str(path)
        finally:  # figures that took minutes are not lost with the picture
            report.end(figures)
    return 1 if tally.unreadable else 0


def _ask(frames: Iterable[Frame], models: Sequence[ComparedModel], batch: int) -> Iterator[Frame | Answers]:
    """Give each frame to every model, a batch at a time, and yield the answers; which model comes first alternates.

    Frames with an ``error`` are yielded as they are.
    """
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
            yield Answers(frame, _truth(frame, models), known) if known else frame


def find_bundles(
    first: Path | None, others: Sequence[Path], trust: Trust | None = None
) -> dict[str, tuple[Path, Bundle]]:
    """Open the manifests of all bundles, name each, and check that they have the same class labels.

    None as ``first`` looks in the usual places; beside two or more others it does without, where it finds no bundle.
    Returned is, by name, each bundle's path as it was given, and the bundle. The name is the run's or the tar's, with
    as many of its folders as it takes to tell the names apart.
    """
    found: dict[Path, tuple[Path, Bundle]] = {}
    for path in others:
        bundle = Bundle.open(path, trust)
        found.setdefault(bundle.root, (path, bundle))
    try:
        bundle = Bundle.open(first, trust)
    except BundleError as error:
        if first is not None or len(found) < 2:
            raise
        say(f"only the bundles of --with: {error}")
    else:
        if bundle.root not in found:
            found = {bundle.root: (first or bundle.root, bundle), **found}
    if len(found) < 2:
        raise UsageError(
            f"expected two different bundles or more to compare, found {bundle.root} alone; name others: --with BUNDLE"
        )
    bundles = dict(zip(bundle_names([path for path, _ in found.values()]), found.values(), strict=True))
    _check_labels({name: bundle.labels for name, (_, bundle) in bundles.items()})
    return bundles


def _check_labels(labels: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse bundles whose sets of labels differ, as answers are compared by label; their order may differ."""
    (name, ours), *others = labels.items()
    for other, theirs in others:
        if set(ours) != set(theirs):
            only = sorted(set(ours) ^ set(theirs))
            more = ", …" if len(only) > MAX_LISTED_LABELS else ""
            raise UsageError(
                f"expected bundles with the same class labels, found {len(ours)} in {name} and {len(theirs)} in "
                f"{other}, of which one of them alone has: {', '.join(only[:MAX_LISTED_LABELS])}{more}; name bundles "
                "trained on the same classes with --bundle and --with"
            )


@contextmanager
def _open_models(bundles: Mapping[str, tuple[Path, Bundle]], **settings: Any) -> Iterator[list[ComparedModel]]:
    with ExitStack() as stack:
        models = []
        for name, (path, bundle) in bundles.items():
            say(f"{name}: {path}")
            models.append(ComparedModel(name, str(path), stack.enter_context(load_announced(bundle, **settings))))
        yield models


def _truth(frame: Frame, models: Sequence[ComparedModel]) -> str | None:
    """Return an image's class, the name of its folder where that is a label; else, and for a video, None."""
    folder = unicodedata.normalize("NFC", Path(frame.source).absolute().parent.name)
    labels = models[0].classifier.labels if not frame.video else ()
    return next((label for label in labels if unicodedata.normalize("NFC", label) == folder), None)
