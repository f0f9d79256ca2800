from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hybrid_edge.runtime.bench.bench_report import BenchReport, Case
from hybrid_edge.runtime.bench.report_plot import STAGE_COLOURS, draw_report, write_plot
from hybrid_edge.runtime.errors import BenchError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.roofline import Limit, Rates, rates_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

pytest.importorskip("matplotlib", reason="the plot needs matplotlib")

Alter = Callable[..., BenchReport]
LONG = {
    "model": "NVIDIA Jetson AGX Orin Developer Kit",
    "cpu": "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz",
    "gpu": "NVIDIA RTX 6000 Ada Generation Laptop GPU",
    "power_mode": "MODE_50W_LOW_LATENCY",
}
SEVEN = (1, 2, 4, 8, 16, 32, 64)
THIRTEEN = tuple(2**power for power in range(13))  # up to the largest there is
VARIANTS = ("fp32-cpu", "int8-cpu-unrolled", "fp16-tensorrt", "int8-tensorrt")

OWN = Rates("this machine", {"fp32": 1.0}, 1.0, None, None, "by hand", measured=True)


def limited(case: Case, ms: float) -> Case:
    inference = case.inference.model_copy(update={"p50": ms * case.batch})
    limit = Limit(ms=ms / 2, overlapped_ms=ms / 2, by_branch={}, limited_by={})
    return case.model_copy(update={"inference": inference, "limit": limit})


def parts_of(figure: Figure) -> dict[str, Bbox]:
    """Where everything written is, and the figure, in pixels."""
    figure.draw_without_rendering()
    panels = {
        f"panel {number} {name}": text.get_window_extent()
        for number, panel in enumerate(figure.axes)
        for name, text in (("title", panel.title), ("label", panel.xaxis.label), *enumerate(panel.texts))
    }
    whole = (figure._suptitle, figure._supxlabel)  # type: ignore[attr-defined]  # no public name
    named = {f"title {text.get_text()}": text.get_window_extent() for text in whole if text is not None}
    return {**panels, **named, "legend": figure.legends[0].get_window_extent()}


@pytest.mark.parametrize("ms", [0.00123, 12.34, 1234.5])
@pytest.mark.parametrize(
    ("variants", "batches"),
    [(VARIANTS[1:2], (1,)), (VARIANTS[1:2], SEVEN), (VARIANTS[1:2], THIRTEEN), (VARIANTS, (1, 2)), (VARIANTS, SEVEN)],
    ids=["one bar", "seven batches", "thirteen batches", "four variants", "four of seven"],
)
def test_nothing_is_cut_off_and_nothing_written_lies_over_another(
    altered: Alter, measured: BenchReport, variants: tuple[str, ...], batches: tuple[int, ...], ms: float
) -> None:
    cases = tuple(
        limited(measured.cases[0].model_copy(update={"variant": variant, "batch": batch}), ms)
        for variant in variants
        for batch in batches
    )
    figure = draw_report(altered(cases=cases, rates={"cpu": OWN}, machine=measured.machine.model_copy(update=LONG)))
    found = parts_of(figure)
    assert len(found) == len(variants) * (len(batches) + 2) + 3
    for name, box in found.items():
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, name
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, name
    for one, other in combinations(found, 2):
        assert not found[one].overlaps(found[other]), (one, other)


def test_the_caption_says_whose_rates_the_limit_is_from(altered: Alter, measured: BenchReport) -> None:
    case = limited(measured.cases[0], 1)
    other = case.model_copy(update={"target": "cuda"})

    def caption(*cases: Case, **rates: Rates) -> str | None:
        figure = draw_report(altered(cases=cases, rates=rates))
        return figure.get_supxlabel() or None

    thor = rates_of("thor")
    assert caption(measured.cases[0], cpu=OWN) is None
    assert caption(case, cpu=OWN, cuda=thor) == "limit from the rates of this machine, measured"
    assert caption(other, cuda=thor) == "limit from the rates of Jetson Thor T5000, predicted bound, not measured"
    both = "limit from the rates of this machine, measured; of Jetson Thor T5000, predicted bound, not measured"
    assert caption(case, other, cpu=OWN, cuda=thor, tensorrt=thor) == both


def test_a_report_without_a_case_can_not_be_drawn(altered: Alter) -> None:
    with pytest.raises(BenchError, match="expected a report with at least one case to plot, found none"):
        draw_report(altered(cases=()))


def test_the_plot_shows_each_variant_with_its_branches(altered: Alter, measured: BenchReport, tmp_path: Path) -> None:
    shares = {"cnn": 0.5, "recurrent": 0.3, "head": 0.2}
    cases = tuple(case.model_copy(update={"shares": shares}) for case in measured.cases)
    write_plot(altered(cases=cases), tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1]
    areas = []
    for branch in ("cnn", "recurrent", "head"):
        colour = [int(STAGE_COLOURS[branch][start : start + 2], 16) for start in (1, 3, 5)]
        areas.append(int(np.count_nonzero((np.abs(picture.astype(int) - colour) < 3).all(axis=2))))
    assert areas[0] > areas[1] > areas[2] > 500
