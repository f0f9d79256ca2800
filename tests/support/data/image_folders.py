"""Class folders of small real images, and what a scan of them found in short."""

from collections import Counter
from pathlib import Path

from skimage import data as photographs

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.train.data import LabelledImage

PHOTO = cv2.cvtColor(photographs.astronaut()[:96, :96], cv2.COLOR_RGB2BGR)


def add(folder: Path, *names: str) -> None:
    """Real images, each of its own size so that no two files are equal."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix.lower(), PHOTO[: 32 + number])[1].tobytes())


def numbered(count: int, suffix: str = ".jpg") -> list[str]:
    """File names that sort as their numbers do."""
    return [f"{i:03d}{suffix}" for i in range(count)]


def relative(images: tuple[LabelledImage, ...], root: Path) -> list[str]:
    return [image.path.relative_to(root).as_posix() for image in images]


def by_label(images: tuple[LabelledImage, ...]) -> Counter[str]:
    return Counter(image.label for image in images)
