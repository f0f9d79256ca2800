"""Plans which artifacts an export makes: for each precision the graphs that suit its targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..runtime.errors import UsageError
from ..runtime.manifest import Precision, RecurrentForm, Target
from ..runtime.spec import ModelSpec

Recurrent = Literal["lstm", "unrolled", "auto"]
# recurrent units from which the unrolled form is the faster one in FP32 on the CPU too, as a step's arithmetic hides
# what its operators cost: with 2,048, batch 8 takes 0.9 times as long and batch 1 as long; with 128, 1.1 and 1.5 times
LARGE_UNITS = 1024
# weights of a step from which INT8 saves more in it than its written-out operators cost on the CPU at batch 1 too: with
# 98,000 it takes 2.8 times as long as the operator in FP32, with 327,000 1.1 times, with a million 0.7 times
LARGE_STEP = 400_000
# steps, above which TensorRT is given them one by one only when asked to: building 64 took 11 s, 128 35 s, 256 120 s
MAX_STEPS = 128
PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # the widest comes first
UNCALIBRATED: tuple[Precision, ...] = ("fp32", "w8")  # nothing of them depends on how large activations get


def variant_name(precision: Precision, target: Target, recurrent: RecurrentForm) -> str:
    """Name a variant, such as ``fp16-tensorrt`` or ``fp16-tensorrt-unrolled``."""
    return f"{precision}-{target}" + ("-unrolled" if recurrent == "unrolled" else "")


@dataclass(frozen=True)
class Artifact:
    """One graph, and the targets that it serves."""

    precision: Precision
    recurrent: RecurrentForm
    targets: tuple[Target, ...]

    @property
    def names(self) -> dict[Target, str]:
        """The names of the variants that share this graph, by target."""
        return {target: variant_name(self.precision, target, self.recurrent) for target in self.targets}

    @property
    def runs_integers_on_cpu(self) -> bool:
        """Whether it is INT8 for ONNX Runtime on the CPU."""
        return self.precision == "int8" and self.targets == ("cpu",)

    @property
    def title(self) -> str:
        """The artifact's name in progress messages, such as ``fp16 unrolled for tensorrt``."""
        form = " unrolled" if self.recurrent == "unrolled" else ""
        return f"{self.precision}{form} for {', '.join(self.targets)}"


@dataclass(frozen=True)
class ModelParts:
    """What a model is made of, as far as plans depend on it.

    Attributes:
        recurrent: whether it has recurrent layers, which may be written in either form.
        others: whether INT8 reaches layers besides those.
        units: the recurrent layers' largest width.
        step: the weights that a recurrent layer's step multiplies with, on average; None where it does not count, as in
            models that ``hybrid-train`` makes and where a CPU has nothing else in INT8.
        steps: the timesteps that the unrolled form writes out, of all layers and directions together; 0 in models
            that ``hybrid-train`` makes.
    """

    recurrent: bool
    others: bool
    units: int
    step: float | None = None
    steps: int = 0

    @classmethod
    def of_branches(cls, spec: ModelSpec) -> ModelParts:
        """Return the parts of a model that ``hybrid-train`` made."""
        return cls(spec.uses_rnn, spec.uses_cnn, spec.rnn_units)


def plan_artifacts(precisions: Iterable[Precision], recurrent: Recurrent, parts: ModelParts) -> list[Artifact]:
    """Plan the artifacts to make, the widest precision first.

    FP32 and FP16 are one graph for every target that takes them; where the recurrent branch is large, the CPU shares
    TensorRT's unrolled one. INT8 is one graph for ONNX Runtime on the CPU, where the unrolled form is the fastest one
    unless the steps of somebody else's recurrent layers are small, and other graphs for TensorRT. ``w8`` is one graph
    for the CPU. With ``auto``,
    TensorRT gets both forms of each precision, and the device times them, unless somebody else's recurrent layers have
    very many steps.

    Raises:
        UsageError: INT8 was asked for a model of LSTM or GRU operators alone, into which it does not reach, or ``w8``
            for one without recurrent layers that can be written out.
    """
    asked = set(precisions)
    return [item for precision in PRECISIONS if precision in asked for item in _of(precision, recurrent, parts)]


def _of(precision: Precision, recurrent: Recurrent, parts: ModelParts) -> Sequence[Artifact]:
    main, *others = _forms(precision, recurrent, parts)
    short = recurrent != "auto" or parts.steps <= MAX_STEPS
    engines = [Artifact(precision, form, ("tensorrt",)) for form in others if short]
    if precision == "fp32":
        if engines and parts.units >= LARGE_UNITS:
            (unrolled,) = others
            return [Artifact(precision, main, ("cuda", "tensorrt")), Artifact(precision, unrolled, ("cpu", "tensorrt"))]
        return [Artifact(precision, main, ("cpu", "cuda", "tensorrt")), *engines]
    if precision == "w8":
        return [Artifact(precision, _product_form(recurrent, parts), ("cpu",))]
    if precision == "fp16":
        return [Artifact(precision, main, ("cuda", "tensorrt")), *engines]
    pays = parts.step is None or parts.step >= LARGE_STEP
    on_cpu: RecurrentForm = "unrolled" if others and pays else main
    on_tensorrt = [Artifact(precision, main, ("tensorrt",))] if short or main != "unrolled" else []
    return [Artifact(precision, on_cpu, ("cpu",)), *on_tensorrt, *engines]


def _product_form(recurrent: Recurrent, parts: ModelParts) -> RecurrentForm:
    """Refuse recurrent weights of 8 bits where there are none, or in an operator, which takes FP32 alone."""
    if not parts.recurrent or recurrent == "lstm":
        found = "--recurrent lstm" if parts.recurrent else "a model without them"
        raise UsageError(f"--w8: expected recurrent layers, whose steps are written out, found {found}: use --fp32")
    return "unrolled"


def _forms(precision: Precision, recurrent: Recurrent, parts: ModelParts) -> tuple[RecurrentForm, ...]:
    if not parts.recurrent:
        return ("none",)
    if precision == "int8" and not parts.others:
        return _quantizable_form(recurrent)
    return ("lstm", "unrolled") if recurrent == "auto" else (recurrent,)


def _quantizable_form(recurrent: Recurrent) -> tuple[RecurrentForm, ...]:
    """Refuse recurrent operators for a model without a CNN: what is called INT8 would be FP16 or FP32 throughout."""
    if recurrent == "lstm":
        raise UsageError(
            "--int8 --recurrent lstm: expected layers that INT8 reaches, found LSTM operators alone (the model has no "
            "CNN branch): use --recurrent unrolled or auto"
        )
    return ("unrolled",)
