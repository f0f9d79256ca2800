"""A data set is described before it is trained on: its classes, its pictures, and what will mislead a training."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..runtime.console import ABSENT, say
from ..runtime.sources.media_files import describe_left_out
from .checked_images import ImageFacts
from .data import DataSet, LabelledImage, balanced_weights
from .training_settings import ClassWeights

MAX_SKIPPED_SHOWN = 20
MAX_CLASSES_SHOWN = 20  # of more, the largest and the smallest are shown
UNBALANCED = 3  # times as many images in the largest class as in the smallest
DARK_BITS = 14  # 16-bit pictures that use no more are shown at a quarter of their brightness at most
FEW_IMAGES = 100  # to validate on; fewer show little
NORMAL_QUANTILE = 1.959963984540054  # the quantile of the normal distribution, 95 % two-sided

Copies = Sequence[tuple[LabelledImage, LabelledImage]]


def show_report(data: DataSet, class_weights: ClassWeights, console: Console) -> None:
    """Print the report on a console; notes and warnings go to stderr, a long list of skipped images cut."""
    for note in filter(None, [*data.notes, describe_left_out(data.left_out)]):
        say(note, "")
    console.print(_class_table(data, class_weights))
    for line in _facts(data, class_weights):
        console.print(line, markup=False, soft_wrap=True)
    for warning in (*data.warnings, *_warnings(data)):
        say(f"warning: {warning}", "yellow")
    for path, reason in list(data.skipped.items())[:MAX_SKIPPED_SHOWN]:
        say(f"skipped {path}: {reason}", "yellow")
    if len(data.skipped) > MAX_SKIPPED_SHOWN:
        say(f"and {len(data.skipped) - MAX_SKIPPED_SHOWN} more; a run's skipped.json lists all", "yellow")


def _class_table(data: DataSet, class_weights: ClassWeights) -> Table:
    counts = [Counter(image.label for image in images) for images in (data.train, data.validation)]
    weights = balanced_weights(data.train) if class_weights == "balanced" else {}
    table = Table("class")
    for column in ("train", "validation", *(("weight",) if weights else ())):
        table.add_column(column, justify="right")
    by_size = sorted(data.labels, key=lambda label: (-counts[0][label], label))
    half = MAX_CLASSES_SHOWN // 2
    left_out = by_size[half:-half] if len(by_size) > MAX_CLASSES_SHOWN else []
    for label in [label for label in by_size if label not in left_out] if left_out else data.labels:
        if left_out and label == by_size[-half]:
            most, least = counts[0][left_out[0]], counts[0][left_out[-1]]
            table.add_row(f"{len(left_out)} more", f"{least:,} to {most:,}", *[ABSENT] * (len(table.columns) - 2))
        row = [f"{count[label]:,}" for count in counts] + ([f"{weights[label]:.3g}"] if weights else [])
        table.add_row(escape(label), *row)
    table.add_section()
    table.add_row(f"all {len(data.labels)}", f"{len(data.train):,}", f"{len(data.validation):,}")
    return table


def _facts(data: DataSet, class_weights: ClassWeights) -> Iterator[str]:
    counts = Counter(image.label for image in data.train).most_common()
    (largest, most), (smallest, fewest) = counts[0], counts[-1]
    advice = most >= UNBALANCED * fewest and class_weights == "none"
    if most > fewest:
        yield (
            f"imbalance {most / fewest:.2g}: {most:,} training images of {largest!r}, {fewest:,} of {smallest!r}"
            + ("; --class-weights balanced lets all classes count alike" if advice else "")
        )
    facts = {image.path: data.facts[image.path] for image in data.images}
    by_size = sorted(facts, key=lambda path: facts[path].width * facts[path].height)
    ends = {f"{facts[path].width} × {facts[path].height}": _short(path) for path in (by_size[0], by_size[-1])}
    gray = sum(item.gray for item in facts.values())
    deep = [item for item in facts.values() if item.high >= 0]
    parts = [
        " to ".join(f"{size} ({name})" for size, name in ends.items()) if len(ends) > 1 else f"all {next(iter(ends))}",
        f"{len(facts) - gray:,} in colour, {gray:,} gray",
        *([f"{len(deep):,} of 16 bits, {_range(deep)}"] if deep else []),
        *([f"{len(data.skipped):,} unreadable"] if data.skipped else []),
    ]
    yield f"pictures: {'; '.join(parts)}"


def _range(deep: Sequence[ImageFacts]) -> str:
    return f"values {min(item.low for item in deep):,} to {max(item.high for item in deep):,}"


def _warnings(data: DataSet) -> Iterator[str]:
    yield from _dark_warnings(data)
    leaked, mixed = _copies(data)
    if leaked:
        yield (
            f"{len(leaked):,} of the {len(data.validation):,} validation images are training images too, by content "
            f"({_named(leaked)}): accuracy is memory for these; keep each on one side"
        )
    if mixed:
        pictures = len({data.facts[first.path].pixels for first, _ in mixed})
        yield (
            f"{pictures:,} {'pictures are' if pictures > 1 else 'picture is'} in two classes, by content "
            f"({_named(mixed)}): no model can tell these apart; keep the right one of each"
        )
    if (count := len(data.validation)) < FEW_IMAGES:
        half = NORMAL_QUANTILE * math.sqrt(0.25 / (count + NORMAL_QUANTILE**2))  # Agresti and Coull, at 50 %
        yield (
            f"{count} validation images show top-1 to about ±{100 * half:.0f} points (95 %): a smaller difference may "
            "be chance"
        )


def _dark_warnings(data: DataSet) -> Iterator[str]:
    deep = [fact for fact in (data.facts[image.path] for image in data.images) if fact.high >= 0]
    dark = [item for item in deep if 0 < item.high < 2**DARK_BITS]
    low, high = min((item.low for item in deep), default=0), max((item.high for item in deep), default=2**16)
    if low < 0 or (not dark and high - low < 2**DARK_BITS):  # signed, or with an offset, as of computed tomography
        yield (
            f"{len(deep):,} pictures of 16 bits have {_range(deep)}; as their high byte is kept, they are trained on "
            f"in {(high >> 8) - (low >> 8) + 1} shades{', and what lies below 0 is light' * (low < 0)}. Spread the "
            "values over 0 to 65,535, and those of all that the model is to see"
        )
    elif dark:
        bits = max(item.high for item in dark).bit_length()
        factor = 2 ** (16 - bits)
        yield (
            f"{len(dark):,} of {len(deep):,} pictures of 16 bits fill {bits} of them ({_range(dark)}); as their high "
            f"byte is kept, they are trained on nearly black. Multiply them, and all that the model is to see, by "
            f"{factor}, as by ImageMagick: magick FILE -evaluate Multiply {factor} NEW"
        )


def _copies(data: DataSet) -> tuple[Copies, Copies]:
    """Pair validation images with the training images that they copy, and images with copies in another class."""
    same, trained = defaultdict(list), dict[str, LabelledImage]()
    for image in data.images:
        same[data.facts[image.path].pixels].append(image)
    for image in data.train:
        trained.setdefault(data.facts[image.path].pixels, image)
    sources = [(image, trained.get(data.facts[image.path].pixels)) for image in data.validation]
    leaked = [(image, source) for image, source in sources if source]  # which may be the same file
    mixed = [(images[0], image) for images in same.values() for image in images if image.label != images[0].label]
    return leaked, mixed


def _named(copies: Copies, most: int = 3) -> str:
    named = [f"{_short(first.path)} = {_short(second.path)}" for first, second in copies[:most]]
    return ", ".join(named + (["…"] if len(copies) > most else []))


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])
