"""What hybrid-score left in a folder: its rows, in order of parts, and images to score."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.models.bundles import encode, sample_image

Rows = list[dict[str, Any]]


def read_rows(folder: Path) -> Rows:
    """The rows of all part files, without keys that are null."""
    found: Rows = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".jsonl":
            found += map(json.loads, path.read_text().splitlines()[1:])
        else:
            import pyarrow.parquet

            found += pyarrow.parquet.read_table(path).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in found]


def read_summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def write_images(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write so many different images and return their paths in natural order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"img{number}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(sample_image(first + number)))
    return paths


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """Write a tar of members by name."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(count: int) -> list[tuple[str, bytes]]:
    """Members as WebDataset has them: an image and its class, by a common number."""
    images = [(f"{number:05}.png", encode(sample_image(number))) for number in range(count)]
    return [member for name, data in images for member in ((name, data), (f"{name[:5]}.cls", b"1"))]
