"""Turns the flags of ``hybrid-train``, by the names of their parameters, into what they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import UsageError
from ..runtime.spec import ModelSpec, preset
from .backbones import BACKBONES
from .training_settings import PHASES, PhaseSettings, TrainSettings, named_faults

SPEC_FLAGS = {name: name for name in ("image_size", "timesteps", "cell", "rnn_units", "rnn_layers", "rnn_batch_norm")}
SPEC_FLAGS |= {name: name for name in ("merge", "resize", "interpolation")} | {"sequence": "sequence_order"}


def settings_of(flags: dict[str, Any]) -> TrainSettings:
    """Make the settings of a training; what no flag says is the preset's, or the backbone's.

    Raises:
        SpecError, UsageError: the flags contradict each other.
    """
    spec = _spec(flags)
    weights = flags["weights"] or _default_weights(spec)
    if weights not in ("none", "imagenet"):
        weights = str(Path(weights).absolute())  # --resume may be called from another folder
    phases = [_phase_settings(flags, number, weights != "none" and spec.uses_cnn) for number in (1, 2)]
    unchanged = (
        "class_weights",
        "mixed_precision",
        "val_fraction",
        "seed",
        "feature_cache",
        "bn_batches",
        "bn_momentum",
    )
    return TrainSettings.make(
        data=str(flags["data"].absolute()),
        **{place: str(flags[place].absolute()) for place in ("val", "labels") if flags[place]},
        spec=spec,
        phases=phases,
        weights=weights,
        augment=spec.backbone == "digits" if flags["augment"] is None else flags["augment"],
        # one thread keeps up with small pictures, and for several Keras waits a tenth of a second at each epoch's end
        workers=(1 if spec.backbone == "digits" else 2) if flags["workers"] is None else flags["workers"],
        devices=devices_of(flags["devices"]) or 1,
        **{key: flags[key] for key in unchanged},
    )


def devices_of(text: str | None) -> int | Literal["all"] | None:
    """Read ``--devices``: a number of GPUs, ``all``, or None where it was left out; UsageError for anything else."""
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--devices expected all or a number of GPUs, found {text!r}")
    return int(text)


def _spec(flags: dict[str, Any]) -> ModelSpec:
    """Make the spec of the preset, the backbone's own defaults, and what the flags say, the last of them first."""
    spec = preset(flags["preset_name"], flags["branches"])
    chosen = {field: flags[flag] for flag, field in SPEC_FLAGS.items() if flags[flag] is not None}
    if flags["backbone"] not in (None, spec.backbone):
        facts = BACKBONES[flags["backbone"]]
        own = {"image_size": facts.image_size, "timesteps": facts.timesteps, "scaling": facts.scaling}
        chosen = {"backbone": flags["backbone"], **own, **chosen}
    if flags["sequence"] == "patches" and flags["timesteps"] is None:
        chosen["timesteps"] = _grid(chosen.get("image_size", spec.image_size)) or spec.timesteps
    return spec.replace(**chosen)


def _grid(image_size: int) -> int:
    """Return the number of patches of the grid nearest to 7 x 7 that divides an image; 0 without one near it."""
    sides = [side for side in range(4, 17) if image_size % side == 0]
    return min(sides, key=lambda side: abs(side - 7), default=0) ** 2


def _default_weights(spec: ModelSpec) -> str:
    return "imagenet" if BACKBONES[spec.backbone].weights_file and spec.uses_cnn else "none"


def _phase_settings(flags: dict[str, Any], number: int, pretrained: bool) -> PhaseSettings:
    name = flags["preset_name"]
    chosen = PHASES.get(f"{name}-{flags['branches']}", PHASES[name])[number - 1].model_dump()
    names = {"epochs": "epochs", "steps": "steps", "batch": "batch_size", "optimizer": "optimizer"}
    names |= {"lr": "learning_rate", "monitor": "monitor"}
    for option, field in names.items():
        if flags[f"phase{number}_{option}"] is not None:
            chosen[field] = flags[f"phase{number}_{option}"]
    if number == 1:
        chosen["freeze_cnn"] = chosen["freeze_cnn"] and pretrained
        if flags["phase1_freeze"] is not None:
            chosen["freeze_cnn"] = flags["phase1_freeze"]
    with named_faults(f"phase {number}: "):
        return PhaseSettings(**chosen)


def listed_recurrent(flags: dict[str, Any]) -> ModelSpec:
    """Make the spec whose recurrent branch --list shows: the flags', beside a backbone of the usual image size."""
    facts = BACKBONES["mobilenet_v2"]
    fields = {name: flags[name] for name in ("timesteps", "rnn_units", "rnn_layers") if flags[name] is not None}
    return ModelSpec.make(**{"branches": "rnn", "image_size": facts.image_size, "timesteps": facts.timesteps, **fields})
