"""``hybrid-train --list``: what the backbones and recurrent cells cost, and how fast a device can be with them at best.

Nothing is built for it: the counts are those of ``backbones``, the bounds those of ``runtime.roofline``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ..runtime.console import make_table, show_table
from ..runtime.roofline import Arithmetic, BranchCost, Cost, Rates, WeightReads, limit_of, rates_of
from ..runtime.spec import Cell, ModelSpec
from .backbones import BACKBONES, cnn_parameters, layer_weights, recurrent_parameters

DEVICES = ("orin-nano-super", "agx-orin", "rpi5")  # shown where none is named
BYTES: dict[Arithmetic, int] = {"fp32": 4, "fp16": 2, "int8": 1}
CAPTION = (
    "GMAC: multiply-accumulates of one image. Times are bounds for a batch of 1, in\n"
    "ms, predicted and not measured: no device is faster, and a small network is far\n"
    "from its bound. The times of a hybrid's branches add up."
)


def show_backbones(recurrent: ModelSpec, devices: Sequence[str]) -> None:
    """Print a table of the backbones at their own image sizes, and of the cells in the recurrent branch of a spec.

    Raises:
        UsageError: a device is not known; the message lists those that are.
    """
    rates = [rates_of(device) for device in devices]
    heads = ["", "million\nweights", "FP32\nMB", "GMAC", "sees"]
    for device, rate in zip(devices, rates, strict=True):
        first, second = _arithmetics(rate)
        heads += ["\n".join([*device.split("-"), first.upper()]), second.upper()]
    rows = []
    for backbone, facts in BACKBONES.items():
        size = facts.image_size
        spec = ModelSpec.make(backbone=backbone, image_size=size, timesteps=facts.timesteps, branches="cnn")
        costs = {kind: Cost(BranchCost(), cnn=cnn_cost(spec, kind)) for kind in BYTES}
        rows.append([backbone, *_size(cnn_parameters(spec)), *_row(costs, f"{size}x{size}", rates)])
    steps, values = recurrent.sequence_shape
    for cell in get_args(Cell):
        spec = recurrent.replace(cell=cell)
        costs = {kind: Cost(BranchCost(), recurrent=recurrent_cost(spec, kind)) for kind in BYTES}
        name = f"{spec.rnn_layers} {cell} of {spec.rnn_units}"
        rows.append([name, *_size(recurrent_parameters(spec)), *_row(costs, f"{steps}x{values}", rates)])
    show_table(make_table("backbones and recurrent cells", heads, rows, caption=CAPTION))


def cnn_cost(spec: ModelSpec, arithmetic: Arithmetic) -> BranchCost:
    """Return what the CNN branch of a spec costs for one image of its backbone's own size."""
    weights = cnn_parameters(spec) * BYTES[arithmetic]
    return BranchCost({arithmetic: BACKBONES[spec.backbone].macs}, (WeightReads(weights, 1),))


def recurrent_cost(spec: ModelSpec, arithmetic: Arithmetic) -> BranchCost:
    """Return what the recurrent layers of a spec cost; the state's weights are read at each step but the first."""
    steps, width = spec.timesteps, BYTES[arithmetic]
    layers = layer_weights(spec)
    macs = sum(steps * inputs + (steps - 1) * states for inputs, states in layers)
    reads = [WeightReads(states * width, steps - 1) for _, states in layers]
    return BranchCost({arithmetic: macs}, (WeightReads(sum(inputs for inputs, _ in layers) * width, 1), *reads))


def _arithmetics(rates: Rates) -> tuple[Arithmetic, Arithmetic]:
    """Return the two widths to show: variants for the CPU have no FP16."""
    return ("fp32", "int8") if "cpu" in rates.targets else ("fp16", "int8")


def _size(parameters: int) -> list[str]:
    return [f"{parameters / 1e6:.1f}", f"{parameters * BYTES['fp32'] / 1e6:.0f}"]


def _row(costs: dict[Arithmetic, Cost], sees: str, rates: Sequence[Rates]) -> list[str]:
    """Return the cells of what is computed and seen, and of each device's times."""
    cost = costs["fp32"]
    macs = sum(sum(branch.macs.values()) for branch in cost.branches.values())
    times = [limit_of(costs[kind], rate).ms for rate in rates for kind in _arithmetics(rate)]
    return [f"{macs / 1e9:.2f}", sees, *map(_time, times)]


def _time(ms: float) -> str:
    if ms < 0.01:
        return "<.01"
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
