"""Makes and keeps golden examples: real images with their tensors, by which a device checks itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...runtime.backends.base import Backend
from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError
from ...runtime.frame import Pixels
from ...runtime.manifest import FileRecord, GoldenImage, GoldenRecord, Variant
from ...runtime.opencv import cv2
from ...runtime.preprocess import Preprocessor, contract, decode_image, read_image
from ...runtime.spec import ModelSpec
from ...train.data import LabelledImage
from .bundle_writer import BundleWriter

Tensor = npt.NDArray[np.float32]

BATCH = 8
LONGEST_SIDE = 1024  # pixels; a telephone's photograph would take 30 MB as PNG
COMPRESSION = 6  # PNG's level; 9 takes five times as long to save 2 %


@dataclass(frozen=True, eq=False)
class Golden:
    """A bundle's golden examples, and the inputs that preprocessing makes of the G images, (G, ...) float32 each.

    ``kept`` are the variants of the bundle so far that were run on these same examples and stay.
    """

    record: GoldenRecord
    tensors: dict[str, Tensor]
    kept: tuple[Variant, ...] = ()


def keep_golden(writer: BundleWriter, weights: str, spec: ModelSpec) -> Golden | None:
    """Read the golden examples of the bundle that is there, if its weights, spec and preprocessing are the model's.

    ``weights`` is the SHA-256 of the model's. The bundle's variants stay, but for those whose file is damaged. Where
    there is nothing to keep, the result is None.
    """
    current = writer.current()
    if current is None or current.manifest.weights_sha256 != weights or current.manifest.spec != spec:
        return None
    if current.manifest.preprocessing != contract(spec):
        return None
    kept = tuple(variant for variant in current.manifest.variants if _is_whole(current, variant))
    try:
        for _ in current.golden_images():  # each decodes
            pass
        return Golden(current.manifest.golden, current.golden_tensors(), kept) if kept else None
    except BundleError:
        return None


def make_golden(writer: BundleWriter, images: Sequence[LabelledImage], spec: ModelSpec) -> Golden:
    """Write images losslessly as PNG, at most 1024 pixels a side, and the tensors that a device will make of them."""
    files = [_encode(read_image(image.path)) for image in images]
    tensors = Preprocessor(spec)([decode_image(file) for file in files])
    records = [
        GoldenImage(file=writer.add("golden", "png", file), label=image.label)
        for file, image in zip(files, images, strict=True)
    ]
    return Golden(GoldenRecord(images=tuple(records), tensors=add_arrays(writer, tensors)), tensors)


def golden_outputs(backend: Backend, golden: Golden) -> dict[str, Tensor]:
    """Run a loaded variant on the examples and return its ``logits`` and ``probabilities``, (G, C) float32 each."""
    count = len(golden.record.images)
    outputs = [
        backend.run({name: tensor[start : start + BATCH] for name, tensor in golden.tensors.items()})
        for start in range(0, count, BATCH)
    ]
    return {
        "logits": np.concatenate([output.logits for output in outputs]),
        "probabilities": np.concatenate([output.probabilities for output in outputs]),
    }


def add_arrays(writer: BundleWriter, arrays: Mapping[str, Tensor]) -> FileRecord:
    """Add an npz to a bundle; the same arrays give the same bytes, since NumPy gives its members a fixed date."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    return writer.add("golden", "npz", buffer.getvalue())


def _is_whole(bundle: Bundle, variant: Variant) -> bool:
    try:
        bundle.verified(variant.file)
        bundle.golden_outputs(variant)
    except BundleError:
        return False
    return True


def _encode(frame: Pixels) -> bytes:
    height, width = frame.shape[:2]
    factor = LONGEST_SIDE / max(height, width)
    if factor < 1:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
    data = cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])[1]
    return bytes(data.tobytes())
