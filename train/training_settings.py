"""The settings of a training are one validated record, which the run folder keeps for --resume."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..runtime.errors import UsageError
from ..runtime.spec import ModelSpec
from .backbones import BACKBONES

Optimizer = Literal["rmsprop", "adam", "adamw", "sgd"]
Monitor = Literal["val_loss", "val_accuracy", "val_top5"]
ClassWeights = Literal["none", "balanced"]


class PhaseSettings(BaseModel):
    """The settings of one of the two phases: what trains, how long, and by which number the best epoch is chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=0, description="0 leaves the phase out")
    steps: int = Field(ge=0, description="batches an epoch; 0 is one pass over the training images")
    batch_size: int = Field(ge=1, le=4096)
    optimizer: Optimizer
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    monitor: Monitor
    schedule: Literal["constant", "cosine"] = Field(default="constant", description="cosine: to 0 at the phase's end")
    freeze_cnn: bool = False

    def cost(self, value: float) -> float:
        """Return a number that is smaller the better the value of the monitored number is."""
        return value if self.monitor == "val_loss" else -value

    def improves(self, value: float, best: float | None) -> bool:
        """Return whether a monitored value beats the best so far; NaN and infinity never do."""
        return math.isfinite(value) and (best is None or self.cost(value) < self.cost(best))


# The reference training: RMSprop with its defaults on a frozen CNN, then Adam at 1e-4 on all layers.
_REFERENCE = PhaseSettings(
    epochs=30, steps=140, batch_size=32, optimizer="rmsprop", learning_rate=1e-3, monitor="val_loss", freeze_cnn=True
)
_REFERENCE_AFTERWARDS = PhaseSettings(
    epochs=30, steps=140, batch_size=16, optimizer="adam", learning_rate=1e-4, monitor="val_accuracy"
)
# The digits networks are small and start from nothing: 16 passes of Adam at a rate that falls to 0 come within a point
# of 30 passes at constant rates (docs/digits.md). The RNN alone needs more, and each costs it a third of a CNN's.
_DIGITS = PhaseSettings(
    epochs=16, steps=0, batch_size=64, optimizer="adam", learning_rate=4e-3, monitor="val_loss", schedule="cosine"
)
_DIGITS_AFTERWARDS = _DIGITS.model_copy(update={"epochs": 0, "learning_rate": 2e-4, "schedule": "constant"})
PHASES: dict[str, tuple[PhaseSettings, PhaseSettings]] = {
    "xception-lstm": (_REFERENCE, _REFERENCE_AFTERWARDS),
    "digits": (_DIGITS, _DIGITS_AFTERWARDS),
    "digits-rnn": (_DIGITS.model_copy(update={"epochs": 24}), _DIGITS_AFTERWARDS),
}


class TrainSettings(BaseModel):
    """The settings of a whole training; ``spec.class_labels`` is filled from the data when the run starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    val: str | None = Field(default=None, description="validation images that lie apart from data")
    labels: str | None = Field(default=None, description="table of the classes of the images in data")
    spec: ModelSpec
    phases: tuple[PhaseSettings, PhaseSettings]
    weights: str = Field(default="none", description="imagenet, none, or a file")
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    class_weights: ClassWeights = Field(default="none", description="balanced: each class counts alike in the loss")
    augment: bool = False
    mixed_precision: Literal["off", "float16", "bfloat16"] = "off"
    devices: Annotated[int, Field(ge=1)] | Literal["all"] = Field(default=1, description="GPUs of this machine")
    seed: int = 0
    workers: int = Field(default=2, ge=1, le=64)
    feature_cache: bool = True
    bn_batches: int = Field(default=40, ge=0, description="0 keeps BatchNorm's statistics as trained")
    bn_momentum: float = Field(default=0.9, gt=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> TrainSettings:
        if self.weights != "none" and not self.spec.uses_cnn:
            raise ValueError(f"--weights {self.weights} fills the CNN branch, which --branches rnn leaves out")
        if self.weights == "imagenet" and not BACKBONES[self.spec.backbone].weights_file:
            raise ValueError(f"no ImageNet weights exist for the {self.spec.backbone} backbone; use --weights none")
        if all(phase.epochs == 0 for phase in self.phases):
            raise ValueError("both phases have 0 epochs: nothing would be trained")
        return self

    @classmethod
    def make(cls, **fields: Any) -> TrainSettings:
        """Build settings from keyword fields; every contradiction found is named in one UsageError."""
        with named_faults():
            return cls(**fields)


@contextlib.contextmanager
def named_faults(where: str = "") -> Iterator[None]:
    """Turn pydantic's error of the block into a UsageError, which begins with ``where``."""
    try:
        yield
    except ValidationError as error:
        raise UsageError(where + _describe(error)) from None


def _describe(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False):
        where = ".".join(map(str, item["loc"]))
        found = f", found {item['input']!r}" if where else ""
        parts.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{found}".removeprefix(": "))
    return "; ".join(parts)
