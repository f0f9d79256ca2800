"""Golden examples, arrays and folders of a bundle that lie, are bombs, or are no files; their hashes are right."""

import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.models.bundles import SPEC, change_manifest, encode, npz, sample_image, store

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError, HybridEdgeError
from hybrid_edge.runtime.golden import check_tensors
from hybrid_edge.runtime.image_headers import PNG_SIGNATURE
from hybrid_edge.runtime.manifest import MAX_EXAMPLES
from hybrid_edge.runtime.preprocess import Preprocessor

from .conftest import LONGEST_MESSAGE, Refused, use
from .test_hostile_manifests import replaced

COUNT = 8
SHAPES = {name: (COUNT, *shape) for name, shape in SPEC.inputs.items()}
GOOD = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def archive(members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def array(header: str, data: bytes = b"", version: bytes = b"\x01\x00", size: int | None = None) -> bytes:
    length = len(header) if size is None else size
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", length) + header.encode() + data


def said(shape: object, kind: str = "<f4", order: object = False) -> str:
    return f"{{'descr': {kind!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def arrays() -> Iterator[tuple[str, bytes]]:
    """Archives in the place of the golden tensors."""
    image, sequence = SHAPES["image"], SHAPES["sequence"]
    values = bytes(4 * int(np.prod(image)))
    whole = array(said(sequence), bytes(4 * int(np.prod(sequence))))
    for name, header in {
        "a shape of terabytes": said((COUNT, 2**20, 2**20, 3)),
        "a shape below 0": said((-1, 12, 12, 3)),
        "a shape of very many axes": said((1,) * 3000),
        "a shape of text": said("('x',)"),
        "objects": said(image, "|O"),
        "texts": said(image, "<U1000000"),
        "64 bits": said(image, "<f8"),
        "the other order of bytes": said(image, ">f4"),
        "the other order of axes": said(image, order=True),
        "a record": said(image, "[('a', '<f4')]"),
        "code": "__import__('os').system('id')\n",
        "brackets": "[" * 60_000,
        "nothing": "",
        "a header twice": said(image) * 2,
    }.items():
        yield name, archive({"image": array(header, values), "sequence": whole})
    yield "a header of four gigabytes", archive({"image": array("", b"", b"\x02\x00", 2**32 - 1), "sequence": whole})
    yield "a header that is cut off", archive({"image": array(said(image), b"", size=60_000), "sequence": whole})
    yield "values that are cut off", archive({"image": array(said(image), values[:-4]), "sequence": whole})
    yield "a pickle", archive({"image": pickle.dumps(GOOD["image"]), "sequence": whole})
    yield (
        "a bomb",
        archive({"image": array(said((COUNT, 4096, 4096, 3)), bytes(2**26)), "sequence": whole}, zipfile.ZIP_DEFLATED),
    )
    for packing in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"packing {packing}", archive({"image": array(said(image), values), "sequence": whole}, packing)
    yield "no image", archive({"sequence": whole})
    yield "no arrays", archive({})
    yield (
        "5,000 members",
        archive({**{f"n{number}": b"" for number in range(5000)}, "image": array(said(image), values)}),
    )
    yield "infinite", npz({**GOOD, "image": np.full_like(GOOD["image"], np.inf)})
    yield "not a number", npz({**GOOD, "image": np.full_like(GOOD["image"], np.nan)})
    yield "one row less", npz({name: value[:-1] for name, value in GOOD.items()})
    yield "no zip", b"\x93NUMPY" + bytes(200)
    yield "empty", b""
    good = npz(GOOD)
    for part in (10, len(good) // 2, len(good) - 5):
        yield f"cut off after {part * 100 // len(good)} %", good[:part]
    yield "encrypted", good[:6] + bytes([good[6] | 1]) + good[7:]
    yield "another CRC", good.replace(good[14:18], bytes(4))
    yield "megabytes beside them", good[:-22] + bytes(10**6) + good[-22:]


ARRAYS = dict(arrays())


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_not_those_of_the_examples_are_refused(name: str, target: Path) -> None:
    golden = Bundle.open(target).manifest.golden
    record = store(target, "golden", "npz", ARRAYS[name])
    bundle = change_manifest(target, golden=golden.model_copy(update={"tensors": record}))
    with pytest.raises(HybridEdgeError) as caught:
        check_tensors(bundle, Preprocessor(SPEC))
    assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_not_those_of_a_variant_are_refused(name: str, target: Path) -> None:
    variant = Bundle.open(target).manifest.variants[0]
    record = store(target, "golden", "npz", ARRAYS[name])
    change_manifest(target, variants=(variant.model_copy(update={"golden": record}),))
    with pytest.raises(BundleError):
        use(target)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    return PNG_SIGNATURE + b"".join(body)


def pictures() -> Iterator[tuple[str, bytes]]:
    """Files in the place of the first golden example."""
    good = encode(sample_image(3))
    for width, height in (
        (11_500, 11_500),
        (2049, 2048),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (2**31 - 1, 2**31 - 1),
        (2**32 - 1, 9),
    ):
        yield f"{width} x {height} pixels", png(width, height)
    yield "no pixels", png(0, 0)
    yield "a width of 0", png(0, 9)
    yield "132 megapixels of a few rows", png(11_500, 11_500, rows=bytes(3 * 11_500 * 100))
    yield "1 bit, palette, without one", png(64, 64, 1, 3)
    yield "an unknown colour", png(64, 64, 8, 9, bytes(9999))
    yield "no rows", png(64, 64)
    yield "a chunk of two gigabytes", good[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + good[33:]
    yield "a checksum", good[:29] + bytes(4) + good[33:]
    yield "cut off", good[: len(good) // 2]
    yield "no end", good[:-12]
    for suffix in (".jpg", ".webp", ".tiff", ".bmp", ".ppm"):
        yield f"a {suffix}", encode(sample_image(3), suffix)
    yield "a GIF", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(100)
    yield "an SVG", b"<svg><image href='file:///etc/passwd'/></svg>"
    yield "a PDF", b"%PDF-1.7"
    yield "a graph", b"\x08\x08"
    yield "empty", b""
    yield "a text", b"x" * 1000


PICTURES = dict(pictures())


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_that_is_no_golden_example_is_refused(name: str, target: Path) -> None:
    golden = Bundle.open(target).manifest.golden
    first = golden.images[0].model_copy(update={"file": store(target, "golden", "png", PICTURES[name])})
    change_manifest(target, golden=golden.model_copy(update={"images": (first, *golden.images[1:])}))
    with pytest.raises(BundleError) as caught:
        use(target)
    assert len(str(caught.value)) < LONGEST_MESSAGE


CHECK = """
import resource, sys
from pathlib import Path
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError, HybridEdgeError
from hybrid_edge.runtime.golden import check_tensors
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.errors import HybridEdgeError
bundle = Bundle.open(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_tensors(bundle, Preprocessor(bundle.spec))
except HybridEdgeError as error:
    print(error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("side", [11_500, 2048])
def test_very_many_very_large_examples_take_the_memory_of_one(side: int, target: Path) -> None:
    """132 megapixels are refused from their header; of the largest that may be there is never more than one."""
    rows = zlib.compressobj(1)
    row = rows.compress(b"\0" + bytes(3 * side))
    packed = b"".join([row, *(rows.compress(b"\0" + bytes(3 * side)) for _ in range(side - 1)), rows.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    golden = Bundle.open(target).manifest.golden
    image = golden.images[0].model_copy(update={"file": store(target, "golden", "png", data)})
    zeros = {name: np.full((MAX_EXAMPLES, *shape[1:]), -1.0, np.float32) for name, shape in SHAPES.items()}
    tensors = store(target, "golden", "npz", npz(zeros))
    change_manifest(target, golden=golden.model_copy(update={"images": (image,) * MAX_EXAMPLES, "tensors": tensors}))
    done = subprocess.run([sys.executable, "-c", CHECK, target], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 2**10  # KiB; one has 12 MiB, and there are 64


def test_more_examples_than_any_bundle_has_are_refused(target: Path, refused: Refused) -> None:
    golden = Bundle.open(target).manifest.golden
    replaced(target, "golden", golden.model_copy(update={"images": golden.images[:1] * 300}).model_dump())
    assert "golden.images" in refused(target)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


PLACES: dict[str, Callable[[Path], object]] = {
    "a link to the same bytes": lambda path: (
        path.rename(path.with_suffix(".x")) and path.symlink_to(path.with_suffix(".x"))
    ),
    "a link out of it": replaced_by(lambda path: path.symlink_to("/etc/hostname")),
    "a link to nothing": replaced_by(lambda path: path.symlink_to("nothing")),
    "a link to itself": replaced_by(lambda path: path.symlink_to(path.name)),
    "a link to a device": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": replaced_by(os.mkfifo),
    "a folder": replaced_by(Path.mkdir),
    "nothing": Path.unlink,
    "an empty file": lambda path: path.write_bytes(b""),
    "a longer file": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a shorter file": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a changed bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "a sparse terabyte": lambda path: os.truncate(path, 2**40),
    "a linked folder": lambda path: path.parent.rename(path.parent.with_name("y")) and path.parent.symlink_to("y"),
}


@pytest.mark.parametrize("pattern", ["manifest.json", "artifacts/*.onnx", "golden/*.npz"])
@pytest.mark.parametrize("name", PLACES)
def test_what_lies_in_a_files_place_is_refused(name: str, pattern: str, target: Path, refused: Refused) -> None:
    path = next(target.glob(pattern))
    if pattern == "manifest.json" and name == "a linked folder":
        pytest.skip("the folder that holds a bundle may be a link: runs/latest is one")
    PLACES[name](path)
    refused(target)


def test_a_hard_link_and_a_file_beside_the_graph_change_nothing(target: Path) -> None:
    graph = next(target.glob("artifacts/*.onnx"))
    other = shutil.copy(graph, target / "copy")
    graph.unlink()
    os.link(other, graph)
    (target / "artifacts" / "x.bin").write_bytes(bytes(1000))
    use(target)
