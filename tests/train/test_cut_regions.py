from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.live.pipelines import KeepingSink, run
from support.machines.commands import Ended, call_command
from support.models.bundles import SPEC, encode, make_bundle, sample_image

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.runtime.sources.capture import open_captures
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.names import CaptureOptions
from hybrid_edge.runtime.sources.regions import parse_regions
from hybrid_edge.train.command import prepare_main
from hybrid_edge.train.cut_regions import prepare_regions

FLAGS = ["gate=3,5,17,11", "dial=33.3%,50%,66.7%,50%"]
TREE = ["train/cat/1.png", "train/cat/turned.jpg", "train/dog/a/gray.png", "train/dog/deep.png", "val/cat/1.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs in class folders: turned by EXIF, gray, of 16 bits, and of different sizes."""
    src = tmp_path / "photos"
    for number, name in enumerate(TREE):
        path = src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(sample_image(number, 40 + number, 61)))
    exif = Image.Exif()
    exif[0x112] = 6  # held upright
    Image.fromarray(sample_image(1, 50, 70)).save(src / "train/cat/turned.jpg", exif=exif)
    Image.fromarray(sample_image(2, 44, 52)[..., 0]).save(src / "train/dog/a/gray.png")
    (src / "train/dog/deep.png").write_bytes(encode(sample_image(3, 44, 52).astype(np.uint16) * 257))
    return src


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    return partial(call_command, "hybrid-prepare", prepare_main, monkeypatch, capfd, "regions")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_cut_is_to_the_bit_what_hybrid_infer_shows_the_model(photos: Path, tmp_path: Path) -> None:
    dst, sink, regions = tmp_path / "cut", KeepingSink(), parse_regions(FLAGS)
    made = prepare_regions(photos, dst, FLAGS)
    captures = open_captures([photos], CaptureOptions(), Events())
    with Classifier.load(make_bundle(tmp_path / "bundle"), check=False) as classifier:
        run(classifier, captures, sink, batch=2, regions={captures[0].name: regions})
    assert (made.written, made.failed, len(sink.results)) == (10, 0, 10)
    shown = Preprocessor(SPEC)
    for result in sink.results:
        assert result.frame.image is not None
        name = Path(result.frame.source).relative_to(photos).with_suffix(".png")
        cut = read_image(dst / result.frame.region / name)
        assert np.array_equal(cut, result.frame.image)
        for tensor, expected in zip(shown([cut]).values(), shown([result.frame.image]).values(), strict=True):
            assert tensor.tobytes() == expected.tobytes()


def test_each_region_has_a_folder_with_the_folders_of_the_source(photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").touch()
    before = files(photos)
    made = prepare_regions(photos, tmp_path / "cut", FLAGS)
    names = [Path(name).with_suffix(".png").as_posix() for name in TREE]
    assert set(files(tmp_path / "cut")) == {f"{region}/{name}" for region in ("gate", "dial") for name in names}
    assert made.counts == {"gate": 5, "dial": 5}
    assert files(photos) == before


def test_a_call_that_was_interrupted_is_completed_by_the_next(photos: Path, tmp_path: Path) -> None:
    prepare_regions(photos, tmp_path / "cut", FLAGS)
    whole = files(tmp_path / "cut")
    first, second, *_ = sorted((tmp_path / "cut").rglob("*.png"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:50])
    second.with_name(f".{second.name}.part").write_bytes(b"half")
    again = prepare_regions(photos, tmp_path / "cut", FLAGS)
    assert (again.written, again.kept) == (2, 8)
    assert files(tmp_path / "cut") == whole
    with pytest.raises(DataError, match="expected an empty folder, or one that this command made"):
        prepare_regions(photos, tmp_path / "cut", FLAGS[:1])


def test_images_that_differ_in_their_suffix_alone_are_all_kept(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for number, name in enumerate(("a.png", "a.bmp", "A.PNG", "a.png.png", "a.bmp.png")):
        (src / name).write_bytes(encode(sample_image(number), Path(name).suffix.lower()))
    prepare_regions(src, tmp_path / "cut", ["all=0%,0%,100%,100%"])
    kept = [read_image(path).tobytes() for path in (tmp_path / "cut/all").iterdir()]
    assert sorted(kept) == sorted(sample_image(number).tobytes() for number in range(5))
    assert len({path.name.casefold() for path in (tmp_path / "cut/all").iterdir()}) == 5


def test_what_can_not_be_read_or_cut_is_named_and_the_rest_is_cut(
    photos: Path, tmp_path: Path, prepare: Callable[..., Ended]
) -> None:
    (photos / "train/dog/bad.png").write_bytes(b"damaged")
    (photos / "train/dog/small.png").write_bytes(encode(sample_image(1, 9, 9)))
    done = prepare(photos, tmp_path / "cut", *(text for flag in FLAGS for text in ("--region", flag)))
    assert done.code == 1
    assert done.out.splitlines() == [f"{5} images in {tmp_path / 'cut/gate'}", f"6 images in {tmp_path / 'cut/dial'}"]
    for line in (
        f"not cut: {photos / 'train/dog/bad.png'} [gate]: not an image that OpenCV reads, or damaged",
        f"not cut: {photos / 'train/dog/bad.png'} [dial]: not an image that OpenCV reads, or damaged",
        f"not cut: {photos / 'train/dog/small.png'} [gate]: the region gate=3,5,17,11 reaches beyond the picture",
        "3 could not be cut, named above",
    ):
        assert line in done.err


@pytest.mark.parametrize(
    ("src", "dst", "flags", "error", "message"),
    [
        ("photos", "cut", [], UsageError, "expected --region NAME=X,Y,W,H at least once"),
        ("photos", "cut", ["gate@video0=0,0,9,9"], UsageError, "without the name of a camera; found gate@video0"),
        ("photos", "cut", ["gate=0,0,9"], UsageError, "expected NAME=X,Y,WIDTH,HEIGHT"),
        ("photos", "photos/cut", FLAGS, UsageError, "lies inside the source"),
        ("nothing", "cut", FLAGS, DataError, "expected a folder of images, found nothing there"),
        ("photos/train/cat/1.png", "cut", FLAGS, DataError, "expected a folder of images, found a file"),
        ("empty", "cut", FLAGS, DataError, r"found none that OpenCV reads \(left out: 1 .txt\)"),
    ],
)
def test_what_can_not_be_meant_is_refused_and_nothing_is_written(
    photos: Path, tmp_path: Path, src: str, dst: str, flags: list[str], error: type[Exception], message: str
) -> None:
    assert photos.is_dir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(error, match=message):
        prepare_regions(tmp_path / src, tmp_path / dst, flags)
    assert not (tmp_path / dst).exists()
