"""A resumed training goes on with the data that it began with; what changed since is named, and nothing is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runtime.errors import DataError
from ..runtime.storage import write_text
from .data import DataSet, LabelledImage, scan_for
from .run_folder import RunFolder
from .training_settings import TrainSettings

MAX_NAMED = 3  # images of each kind of change


def record_contents(run: RunFolder, data: DataSet) -> None:
    """Write ``contents.txt``, which identifies the bytes of each image of ``train.txt`` and then ``validation.txt``."""
    write_text(run.contents, "".join(f"{data.facts[image.path].content}\n" for image in data.images))


def refuse_changed(
    run: RunFolder, settings: TrainSettings, train: Sequence[LabelledImage], validation: Sequence[LabelledImage]
) -> None:
    """Raise DataError, which names the changes, where the data are not those with which the run began.

    ``train`` is empty where only ``validation`` is still to be used; then what was added does not count, nor in runs
    that recorded no contents: by the rules of their time it may have been left out.
    """
    images = [*train, *validation]
    labels = {image.path: image.label for image in images}
    try:
        data = scan_for(settings)
    except DataError:
        changes = {"removed": [path for path in labels if not path.is_file()]}
        if not changes["removed"]:
            raise
    else:
        contents = run.contents.read_text().split() if run.contents.exists() else []  # older runs have none
        paths = [image.path for image in images]  # an image may be in both lists
        recorded = dict(zip(paths, contents[len(contents) - len(paths) :], strict=False))
        changes = _changes(labels, recorded, data)
        if not train or not contents:
            del changes["added"]
    named = [f"{len(paths):,} {change} ({_named(paths)})" for change, paths in changes.items() if paths]
    if named:
        raise DataError(
            f"the images of run {run.name} are not those with which it began: {'; '.join(named)}. Put them back "
            f"as they were, or start a new run: hybrid-train {settings.data}"
        )


def _changes(labels: Mapping[Path, str], recorded: Mapping[Path, str], data: DataSet) -> dict[str, list[Path]]:
    now = {_absolute(image.path): image for image in data.images}
    unreadable = {_absolute(path) for path in data.skipped}
    kept = [path for path in labels if path in now]
    contents = {path: data.facts[now[path].path].content for path in kept}
    return {
        "removed": [path for path in labels if path not in now and path not in unreadable],
        "no longer readable": [path for path in labels if path in unreadable],
        "with other content": [path for path in kept if recorded.get(path, contents[path]) != contents[path]],
        "in another class": [path for path in kept if now[path].label != labels[path]],
        "added": [path for path in now if path not in labels],
    }


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  links stay


def _named(paths: Sequence[Path]) -> str:
    return ", ".join([*map(str, paths[:MAX_NAMED]), *(["…"] if len(paths) > MAX_NAMED else [])])
