"""The ModelSpec is the one description of a model that every other part is driven by."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from .errors import SpecError

Backbone = Literal[
    "xception",
    "digits",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "resnet50_v2",
    "densenet121",
    "convnext_tiny",
]
Branches = Literal["hybrid", "cnn", "rnn", "adopted"]
ResizePolicy = Literal["stretch", "center-crop", "letterbox"]
Interpolation = Literal["linear-exact", "nearest-exact"]
Scaling = Literal["xception", "unit", "torch", "caffe", "raw"]  # what each computes: ``preprocess.scaled_values``
Channels = Literal["rgb", "bgr", "gray"]
Cell = Literal["lstm", "gru", "bilstm"]
Merge = Literal["multiply", "concatenate", "add"]
SequenceOrder = Literal["rows", "patches"]

MAX_IMAGE_SIZE = 4096  # a frame of 4096x4096x3 float32 is 192 MiB; more is a typing error, not a model
MAX_CLASSES = 2**17  # ImageNet-21k has 21,843
MAX_FAULTS = 5  # that an error lists
MAX_FAULT = 300  # characters of each
# what people read, in one line; a terminal's and a log's control characters have no place in it
Label = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
SPATIAL_MINIMUM = {"xception": 71, "digits": 8}  # Xception's five stride-2 stages; the digits CNN's three poolings
OTHER_SPATIAL_MINIMUM = 32  # Keras's own for the other backbones
# fields that the first version of the format lacks; they are written only where they differ from their defaults, so
# that what an older hybrid-edge can run, it can read
LATER_FIELDS = ("channels", "cell", "merge", "sequence_order")
BRANCH_FIELDS = (
    "grayscale",
    "timesteps",
    "backbone",
    "rnn_units",
    "rnn_layers",
    "rnn_batch_norm",
)  # no adopted model's


class ModelSpec(BaseModel):
    """What a model sees and is made of, as a frozen, validated record that is read from and written to JSON.

    The defaults are the reference hybrid: 299x299x3 images, 23 timesteps of 3887 values, two LSTMs of 2048. An
    ``adopted`` model is one that somebody else trained, a single graph from the image to the scores: for it the fields
    of the branches stay at their defaults and mean nothing.

    Raises:
        SpecError: from ``ModelSpec.make`` and ``ModelSpec.from_json``, with every contradiction found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=299, ge=8, le=MAX_IMAGE_SIZE, description="S: width and height, pixels")
    resize: ResizePolicy = "stretch"
    interpolation: Interpolation = "linear-exact"  # bit-exact on x86 and ARM; INTER_LINEAR is not
    channels: Channels = "rgb"
    scaling: Scaling = "xception"  # x / 127.5 - 1, so [-1, 1]
    grayscale: Literal["mean"] = "mean"  # plain mean of the three scaled channels
    timesteps: int = Field(
        default=23, ge=1, le=MAX_IMAGE_SIZE**2, description="T: must divide S*S; for patches n*n, with n dividing S"
    )
    sequence_order: SequenceOrder = "rows"  # how pixels are dealt out to timesteps
    backbone: Backbone = "xception"
    branches: Branches = "hybrid"
    cell: Cell = "lstm"
    rnn_units: int = Field(default=2048, ge=1, le=16384)
    rnn_layers: int = Field(default=2, ge=1, le=16)
    rnn_batch_norm: bool = False
    merge: Merge = "multiply"  # how a hybrid's branches meet
    class_labels: tuple[Label, ...] = Field(default=(), max_length=MAX_CLASSES)

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        pixels = self.image_size**2
        if self.uses_rnn and pixels % self.timesteps:
            small = [t for t in range(1, self.image_size + 1) if pixels % t == 0]
            near = sorted({*small, *(pixels // t for t in small)})
            near = sorted(sorted(near, key=lambda t: abs(t - self.timesteps))[:4])
            raise ValueError(
                f"timesteps must divide image_size squared: {self.image_size}² = {pixels} is not a multiple of "
                f"{self.timesteps}; nearest that are: {', '.join(map(str, near))}"
            )
        if self.uses_rnn and self.sequence_order == "patches" and not self._is_grid:
            grids = [n * n for n in range(1, self.image_size + 1) if self.image_size % n == 0]
            near = sorted(sorted(grids, key=lambda t: abs(t - self.timesteps))[:4])
            raise ValueError(
                f"patches are a grid of n x n, n dividing image_size {self.image_size}: expected timesteps of n*n, "
                f"found {self.timesteps}; nearest that are: {', '.join(map(str, near))}"
            )
        if self.channels == "gray" and (not self.adopted or self.scaling in ("torch", "caffe")):
            raise ValueError(
                "one gray channel is for adopted models, with a scaling that is the same for every channel (xception, "
                f"unit or raw), found branches {self.branches} and scaling {self.scaling}"
            )
        minimum = SPATIAL_MINIMUM.get(self.backbone, OTHER_SPATIAL_MINIMUM)
        if self.uses_cnn and self.image_size < minimum:
            raise ValueError(f"the {self.backbone} backbone needs image_size >= {minimum}, found {self.image_size}")
        if len(set(self.class_labels)) != len(self.class_labels):
            twice = sorted(label for label, count in Counter(self.class_labels).items() if count > 1)
            shown = ", ".join(label[:50] for label in twice[:MAX_FAULTS])
            raise ValueError(f"class_labels must differ from each other; twice or more: {shown}")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        omitted = (*LATER_FIELDS, *BRANCH_FIELDS) if self.adopted else LATER_FIELDS
        fields = type(self).model_fields
        return {name: v for name, v in content.items() if name not in omitted or v != fields[name].default}

    @classmethod
    def make(cls, **fields: Any) -> ModelSpec:
        """Build a spec from keyword fields, with SpecError in place of pydantic's error."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise SpecError(f"invalid model spec: {describe_faults(error)}") from None

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """Read a spec from JSON text."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SpecError(f"invalid model spec: {describe_faults(error)}") from None

    def replace(self, **fields: Any) -> ModelSpec:
        """Return a copy with some fields changed, validated as a whole."""
        return self.make(**{**self.model_dump(), **fields})

    @property
    def format_version(self) -> int:
        """The first version of the bundle's and the model file's format whose readers know all of this spec: 1 or 2."""
        later = {name for name in LATER_FIELDS if getattr(self, name) != type(self).model_fields[name].default}
        old = self.backbone in SPATIAL_MINIMUM and self.scaling == "xception" and not self.adopted
        return 1 if old and not later else 2

    @property
    def adopted(self) -> bool:
        """Whether somebody else trained the model: one graph from the image to the scores, without branches."""
        return self.branches == "adopted"

    @property
    def uses_cnn(self) -> bool:
        """Whether the convolutional branch is part of the model."""
        return self.branches in ("hybrid", "cnn")

    @property
    def uses_rnn(self) -> bool:
        """Whether the recurrent branch is part of the model."""
        return self.branches in ("hybrid", "rnn")

    @property
    def num_classes(self) -> int:
        """The number of class labels, C."""
        return len(self.class_labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of the ``image`` input without the batch axis: (S, S, 3), or (S, S, 1) for gray."""
        return (self.image_size, self.image_size, 1 if self.channels == "gray" else 3)

    @property
    def sequence_shape(self) -> tuple[int, int]:
        """The shape of the ``sequence`` input without the batch axis: (T, S*S/T)."""
        return (self.timesteps, self.image_size**2 // self.timesteps)

    @property
    def _is_grid(self) -> bool:
        side = math.isqrt(self.timesteps)
        return side * side == self.timesteps and self.image_size % side == 0

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The ONNX inputs that the model uses, with their shapes without the batch axis."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.uses_cnn or self.adopted:
            shapes["image"] = self.image_shape
        if self.uses_rnn:
            shapes["sequence"] = self.sequence_shape
        return shapes


def describe_faults(error: ValidationError) -> str:
    """Return a line that names the first five faults that pydantic found, each with its place and the value there."""
    faults = []
    for item in error.errors(include_url=False)[:MAX_FAULTS]:
        place = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        found = "" if item["type"] == "value_error" else f" (found {_short(item['input'])})"
        fault = f"{place}: {message}{found}".removeprefix(": ")
        faults.append("".join(c if c.isprintable() else ascii(c)[1:-1] for c in fault[:MAX_FAULT]))
    more = error.error_count() - len(faults)
    return "; ".join(faults + ([f"and {more} more"] if more else []))


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"an integer of {value.bit_length()} bits"


PRESETS: dict[str, ModelSpec] = {
    "xception-lstm": ModelSpec(),
    "digits": ModelSpec(image_size=28, timesteps=28, backbone="digits", rnn_units=128, rnn_layers=1),
}


def preset(name: str, branches: Branches = "hybrid") -> ModelSpec:
    """Return the spec of a preset, for the branches asked for and without class labels.

    The digits preset's RNN alone is one LSTM(64) with batch normalization; in the hybrid the LSTM has 128 units,
    the width of the CNN's Dense layer.

    Raises:
        SpecError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise SpecError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    spec = PRESETS[name].replace(branches=branches)
    if name == "digits" and branches == "rnn":
        return spec.replace(rnn_units=64, rnn_batch_norm=True)
    return spec
