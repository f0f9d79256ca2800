"""The ModelSpec is the one description of a model that every other part is driven by."""

from __future__ import annotations

import reprlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import SpecError

Backbone = Literal["xception", "digits"]
Branches = Literal["hybrid", "cnn", "rnn"]
ResizePolicy = Literal["stretch", "center-crop", "letterbox"]
Interpolation = Literal["linear-exact", "nearest-exact"]

MAX_IMAGE_SIZE = 4096  # a frame of 4096x4096x3 float32 is 192 MiB; more is a typing error, not a model
MAX_FAULTS = 5  # that an error lists
SPATIAL_MINIMUM = {"xception": 71, "digits": 8}  # Xception's five stride-2 stages; the digits CNN's three poolings


class ModelSpec(BaseModel):
    """What a model sees and is made of, as a frozen, validated record that is read from and written to JSON.

    The defaults are the reference hybrid: 299x299x3 images, 23 timesteps of 3887 values, two LSTMs of 2048.

    Raises:
        SpecError: from ``ModelSpec.make`` and ``ModelSpec.from_json``, with every contradiction found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=299, ge=8, le=MAX_IMAGE_SIZE, description="S: width and height, pixels")
    resize: ResizePolicy = "stretch"
    interpolation: Interpolation = "linear-exact"  # bit-exact on x86 and ARM; INTER_LINEAR is not
    scaling: Literal["xception"] = "xception"  # x / 127.5 - 1, so [-1, 1]
    grayscale: Literal["mean"] = "mean"  # plain mean of the three scaled channels
    timesteps: int = Field(default=23, ge=1, description="T: must divide S*S")
    backbone: Backbone = "xception"
    branches: Branches = "hybrid"
    rnn_units: int = Field(default=2048, ge=1, le=16384)
    rnn_layers: int = Field(default=2, ge=1, le=16)
    rnn_batch_norm: bool = False
    class_labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        pixels = self.image_size**2
        if self.uses_rnn and pixels % self.timesteps:
            near = [t for t in range(1, pixels + 1) if pixels % t == 0]
            near = sorted(sorted(near, key=lambda t: abs(t - self.timesteps))[:4])
            raise ValueError(
                f"timesteps must divide image_size squared: {self.image_size}² = {pixels} is not a multiple of "
                f"{self.timesteps}; nearest that are: {', '.join(map(str, near))}"
            )
        minimum = SPATIAL_MINIMUM[self.backbone]
        if self.uses_cnn and self.image_size < minimum:
            raise ValueError(f"the {self.backbone} backbone needs image_size >= {minimum}, found {self.image_size}")
        if len(set(self.class_labels)) != len(self.class_labels):
            twice = sorted({c for c in self.class_labels if self.class_labels.count(c) > 1})
            raise ValueError(f"class_labels must differ from each other; twice or more: {', '.join(twice[:5])}")
        return self

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
        """The shape of the ``image`` input without the batch axis: (S, S, 3)."""
        return (self.image_size, self.image_size, 3)

    @property
    def sequence_shape(self) -> tuple[int, int]:
        """The shape of the ``sequence`` input without the batch axis: (T, S*S/T)."""
        return (self.timesteps, self.image_size**2 // self.timesteps)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The ONNX inputs that the branches use, with their shapes without the batch axis."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.uses_cnn:
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
        found = "" if item["type"] == "value_error" else f" (found {reprlib.repr(item['input'])})"
        faults.append(f"{place}: {message}{found}".removeprefix(": "))
    more = error.error_count() - len(faults)
    return "; ".join(faults + ([f"and {more} more"] if more else []))


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
