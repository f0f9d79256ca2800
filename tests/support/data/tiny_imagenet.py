"""A miniature of Tiny ImageNet as published, what its class folders must hold, and ``hybrid-prepare`` as a process."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
from skimage import data as photographs

from support.machines.commands import command

CLASSES = {  # wnid -> words.txt, photograph
    "n01443537": ("goldfish, Carassius auratus", photographs.astronaut),
    "n02012849": ("crane", photographs.chelsea),
    "n03126707": ("crane", photographs.coffee),
    "n03599486": ("jinrikisha, ricksha, rickshaw", photographs.rocket),
    "n09999999": ("jack-o'-lantern / Été: pumpkin.", photographs.astronaut),
}
NAMES = ["goldfish", "crane_n02012849", "crane_n03126707", "jinrikisha", "jack-o'-lantern_Été_pumpkin"]
TRAIN, VAL = 6, 2


def jpeg(photo: np.ndarray, place: int) -> bytes:
    """One of the photograph's 64 x 64 tiles."""
    tile = photo[place * 8 : place * 8 + 64, place * 16 : place * 16 + 64]
    return cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))[1].tobytes()


def write_source(root: Path) -> None:
    """A miniature of the published layout, made of scikit-image's photographs."""
    (root / "val/images").mkdir(parents=True)
    (root / "test/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    words = [f"{wnid}\t{words}" for wnid, (words, _) in CLASSES.items()]
    (root / "words.txt").write_text("\n".join(["n00001740\tentity", *words]) + "\n")
    annotations = []
    for number, (wnid, (_, photograph)) in enumerate(CLASSES.items()):
        photo = photograph()
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
        for i in range(TRAIN):
            (images / f"{wnid}_{i}.JPEG").write_bytes(jpeg(photo, i))
        for i in range(VAL):
            name = f"val_{number * VAL + i}.JPEG"
            (root / "val/images" / name).write_bytes(jpeg(photo, TRAIN + i))
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (root / "val/val_annotations.txt").write_text("".join(annotations[::-1]))
    (root / "test/images/test_0.JPEG").write_bytes(jpeg(photo, 0))


def archive(source: Path, kind: str) -> Path:
    """The source packed beside itself, its folder on top: ``.tar``, ``.tar.gz`` or ``.zip``."""
    path = source.parent / f"tiny{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for member in sorted(source.rglob("*")):
                file.write(member, member.relative_to(source.parent))
    else:
        with tarfile.open(path, "w:gz" if kind == ".tar.gz" else "w") as file:
            file.add(source, source.name)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def expected(source: Path, wnids: list[str] | None = None) -> dict[str, bytes]:
    """What the class folders must hold, found independently of the code under test."""
    files = {}
    names = dict(zip(CLASSES, NAMES, strict=True))
    for wnid in wnids or list(CLASSES):
        for path in (source / "train" / wnid / "images").iterdir():
            files[f"train/{names[wnid]}/{path.name}"] = path.read_bytes()
    for line in (source / "val/val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        if wnid in (wnids or CLASSES):
            files[f"val/{names[wnid]}/{name}"] = (source / "val/images" / name).read_bytes()
    return files


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file: what a rerun that keeps files leaves alone."""
    stats = {p.relative_to(folder).as_posix(): p.stat() for p in folder.rglob("*") if p.is_file()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return command("hybrid-prepare", *arguments, environment=environment)
