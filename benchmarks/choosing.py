"""Hybrids against their parts: small hybrids, their CNNs and their RNNs alone, trained alike on the same images.

    PYTHONPATH=tests python benchmarks/choosing.py DATA --work WORK --page docs/choosing.md

DATA has ``train/`` and ``val/`` with class folders. What is in WORK already is not trained again. Each model goes the
users' way: hybrid-train, hybrid-export --fp32 --int8; then all are timed on one image at a time, interleaved.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from interleave import OUT, Timings, interleave

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.bench.machine import read_clocks, record_machine
from hybrid_edge.runtime.manifest import Manifest, Precision
from hybrid_edge.runtime.preprocess import read_image

__all__: list[str] = []

SIZE, UNITS = 32, 128  # pixels
STEPS = {"rows": 32, "patches": 16}  # a row each, and a grid of 4 x 4
THREADS = 2
ROUNDS = 60
VALIDATION = 1000  # images
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
NAMES = {"digits": "small CNN"}
CELLS = {"lstm": "LSTM", "gru": "GRU", "bilstm": "BiLSTM"}


@dataclass(frozen=True)
class Planned:
    """One model: a CNN, recurrent layers, or both and how they meet."""

    backbone: str = ""
    cell: str = ""
    order: str = "rows"
    merge: str = "multiply"

    @property
    def branches(self) -> str:
        """As ``hybrid-train --branches`` takes them."""
        return "hybrid" if self.backbone and self.cell else "cnn" if self.backbone else "rnn"

    @property
    def name(self) -> str:
        """The name of the run."""
        return "-".join(
            part for part in (self.backbone, self.cell, self.order if self.cell else "", self._merge) if part
        )

    @property
    def title(self) -> str:
        """What the page calls it."""
        parts = [NAMES[self.backbone]] if self.backbone else []
        parts += [f"{CELLS[self.cell]} over {self.order}"] if self.cell else []
        return " and ".join(parts) + (f", {self.merge}" if self._merge else "")

    @property
    def options(self) -> list[str]:
        """The options of ``hybrid-train`` that make it."""
        model = ["--branches", self.branches, "--backbone", self.backbone or "digits", "--image-size", str(SIZE)]
        if self.cell:
            model += [
                "--cell",
                self.cell,
                "--sequence",
                self.order,
                "--merge",
                self.merge,
                "--timesteps",
                str(STEPS[self.order]),
            ]
            model += ["--rnn-units", str(UNITS), "--rnn-layers", "1"]
        return model

    @property
    def _merge(self) -> str:
        return self.merge if self.branches == "hybrid" else ""


HYBRIDS = (
    Planned("digits", "lstm"),
    Planned("digits", "gru"),
    Planned("digits", "bilstm", merge="concatenate"),
    Planned("digits", "gru", "patches", "concatenate"),
    Planned("digits", "lstm", "patches", "add"),
)
CNNS = tuple(Planned(backbone) for backbone in dict.fromkeys(item.backbone for item in HYBRIDS))
RNNS = tuple(Planned(cell=cell, order=order) for cell, order in dict.fromkeys((i.cell, i.order) for i in HYBRIDS))


def main(
    data: Annotated[Path, typer.Argument(help="train/ and val/ with class folders")],
    work: Annotated[Path, typer.Option(help="where runs are kept")] = Path("bench/choosing"),
    page: Annotated[Path | None, typer.Option(help="the page to write; default: none")] = None,
    epochs: Annotated[int, typer.Option(help="of each model")] = 10,
) -> None:
    """Train, export and time every model, and write the page."""
    planned = (*CNNS, *RNNS, *HYBRIDS)
    for item in planned:
        _train(item, data, work, epochs)
    for item in planned:
        _export(item, work)
    timings = _time(planned, data, work)
    text = _page(planned, work, timings, epochs)
    OUT.print(text, markup=False)
    if page:
        page.write_text(text)


def _train(item: Planned, data: Path, work: Path, epochs: int) -> None:
    run = work / item.name
    if (run / "metrics.json").is_file() and not json.loads((run / "metrics.json").read_text())["interrupted"]:
        return
    words = ["--resume"] if run.is_dir() else [str(data), "--weights", "none", "--no-augment", *item.options]
    if not run.is_dir():
        words += ["--phase1-epochs", "0", "--phase2-epochs", str(epochs), "--phase2-steps", "0", "--phase2-batch", "64"]
        words += ["--phase2-optimizer", "adam", "--phase2-lr", "0.001"]
    _call("train.command", [*words, "--runs", str(work), "--name", item.name])


def _export(item: Planned, work: Path) -> None:
    run = work / item.name
    if not (run / "bundle-report" / "report.json").is_file():
        _call("export.command", [str(run), "--fp32", "--int8"], allowed=(0, 3))


def _call(module: str, words: list[str], allowed: tuple[int, ...] = (0,)) -> None:
    command = [sys.executable, "-c", f"from hybrid_edge.{module} import main; main()", *words]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")


def _manifest(item: Planned, work: Path) -> Manifest:
    return Manifest.model_validate_json((work / item.name / "bundle" / "manifest.json").read_bytes())


def _time(planned: tuple[Planned, ...], data: Path, work: Path) -> Timings:
    """Time one frame, decoded, to probabilities, with every model in every round."""
    frame = read_image(next(islice(sorted((data / "val").glob("*/*")), 1)))
    cases: dict[str, Any] = {}
    for item in planned:
        there = {variant.precision for variant in _manifest(item, work).variants if variant.target == "cpu"}
        for precision in PRECISIONS:
            if precision in there:
                bundle = work / item.name / "bundle"
                classifier = Classifier.load(bundle, backend="cpu", precision=precision, threads=THREADS)
                cases[f"{item.name} {precision}"] = lambda own=classifier: own.predict([frame]) and None
    return interleave(cases, rounds=ROUNDS, warm_up=5)


def _page(planned: tuple[Planned, ...], work: Path, timings: Timings, epochs: int) -> str:
    lines = [
        "# Choosing a model: hybrids against their parts",
        "",
        f"Trained alike on the 10,000 images of 20 classes of tiny-imagenet ({SIZE}x{SIZE} pixels, {epochs} epochs of "
        f"Adam from random weights, recurrent layers of {UNITS} units, {STEPS['rows']} rows or {STEPS['patches']} "
        f"patches), judged on 1,000 others. Times are the median of one image on {THREADS} threads, all in turns: "
        f"{record_machine(read_clocks()).cpu}. Made by `benchmarks/choosing.py`.",
        "",
        "| | top-1 | top-5 | MB, FP32 | ms, FP32 | top-1, INT8 | MB, INT8 | ms, INT8 |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(item, work, timings) for item in planned),
        "",
        *_summary(planned, work, timings),
        "",
        "What a backbone and a cell cost, and how fast a device can be with them at best, is known before training: "
        "`hybrid-train --list --predict-for orin-nano-super`. What your own images make of them is not: train both, "
        "and compare with `hybrid-compare photos/val --bundle runs/A --with runs/B`.",
        "",
    ]
    return "\n".join(lines)


def _top1(item: Planned, work: Path) -> float:
    return float(json.loads((work / item.name / "metrics.json").read_text())["top1"])


def _summary(planned: tuple[Planned, ...], work: Path, timings: Timings) -> list[str]:
    """Say what each hybrid gains and costs beside its CNN alone."""
    lines = ["A hybrid beside its CNN alone:", ""]
    for item in (one for one in planned if one.branches == "hybrid"):
        alone = Planned(item.backbone)
        gain = 100 * (_top1(item, work) - _top1(alone, work))
        own, its = (median(timings[f"{model.name} fp32"]) for model in (item, alone))
        lines.append(f"- {item.title}: {gain:+.1f} points, {own / its:.2f} times the time in FP32.")
    chance = 200 * (2 * 0.25 / VALIDATION) ** 0.5
    lines += ["", f"With {VALIDATION:,} images, differences of less than {chance:.0f} points may be chance."]
    return lines


def _row(item: Planned, work: Path, timings: Timings) -> str:
    top5 = json.loads((work / item.name / "metrics.json").read_text())["top5"]
    cells = [item.title, f"{_top1(item, work):.1%}", f"{top5:.1%}"]
    variants = {variant.precision: variant for variant in _manifest(item, work).variants if variant.target == "cpu"}
    for precision in PRECISIONS:
        variant = variants.get(precision)
        if precision == "int8":
            accuracy = variant.parity.accuracy if variant else None
            cells.append(f"{accuracy.variant:.1%}" if accuracy else "refused")
        cells += (
            [f"{variant.file.size / 1e6:.1f}", f"{1000 * median(timings[f'{item.name} {precision}']):.2f}"]
            if variant
            else ["", ""]
        )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
