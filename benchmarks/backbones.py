"""Each backbone as the exporter makes it: parity, sizes, and time beside Keras and OpenVINO.

    PYTHONPATH=tests python benchmarks/backbones.py DATA --work WORK --page docs/backbones.md

DATA has ``train/`` and ``val/`` with class folders. For each backbone a CNN with honest weights is made: trained for
some epochs on small images, BatchNorm's statistics re-estimated and the head fitted at its own size.
Then it goes the users' way, hybrid-export --fp32 --fp16 --int8. Its variants for TensorRT are built with TensorRT-RTX;
those for the CPU are timed in one interleaved run with Keras's ``tf.function`` and OpenVINO in FP32, BF16 and INT8.
What is in WORK already is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from interleave import OUT
from peers.catalogue import OURS, REFERENCE
from peers.run import Plan, measure
from peers.standin_run import Run
from rtx_builds import builds

from hybrid_edge.runtime.bench.machine import read_clocks, record_machine
from hybrid_edge.train.backbones import BACKBONES

__all__: list[str] = []

NAMES = [name for name in BACKBONES if name not in ("xception", "digits")]
MADE = "from trained_standin import make_cnn; import sys; make_cnn(*sys.argv[1:])"
OPENVINO = ("OpenVINO FP32", "OpenVINO BF16", "OpenVINO INT8 (NNCF)", "OpenVINO INT8 (NNCF) + BF16")
ARCHITECTURE = "sm89"  # of the GPU that engines are built for, which need not be here
TRAINED = "trained.json"  # images, epochs and the pixels that they were trained at
MB = 1e6
HEAD = """# Backbones

What `hybrid-export --fp32 --fp16 --int8` makes of each backbone, as a CNN alone, made by one command:

    {command}

{machine}. Weights: trained for some epochs on labelled images of 20 classes at few pixels, BatchNorm's
statistics re-estimated, the head fitted at the size given. No model is good, but its answers differ. The worse it is,
the more images lie between two labels, and the more a rounding flips. What is for TensorRT was simulated on the CPU.
"Trained on" is `--train`, `--epochs` and `--pixels` of each, given with `--only`; what is in WORK already is kept.
"""
PROOF = "| backbone | size | trained on | Keras | variant | accuracy | same label | mean \\|Δp\\| | MB | gate |"
BUILDS = f"| backbone | variant | {ARCHITECTURE}, s | engine, MB | convolutions with Q/DQ | matrix products with Q/DQ |"
TIMES = "| backbone | batch | Keras, ms | FP32 | INT8 | OpenVINO FP32 | BF16 | INT8 | INT8 + BF16 | INT8 / FP32 |"


@dataclass(frozen=True)
class Measured:
    """One backbone: images, epochs, pixels of its training; the exporter's report; engines; ms by batch and peer."""

    name: str
    size: int
    trained: tuple[int, int, int]
    entries: list[dict[str, Any]]
    engines: Mapping[str, Mapping[str, Any]]
    times: Mapping[int, Mapping[str, float]]


def main(
    data: Path,
    work: Annotated[Path, typer.Option(help="where models, bundles and environments are kept")],
    page: Annotated[Path | None, typer.Option(help="the page to write")] = None,
    size: Annotated[int | None, typer.Option(help="pixels; by default each backbone's own")] = None,
    train: int = 10_000,
    epochs: int = 8,
    pixels: Annotated[int, typer.Option(help="of the images to train on")] = 64,
    gate: int = 300,
    calib: Annotated[Path | None, typer.Option(help="images to calibrate on; by default 500 of DATA/train")] = None,
    rounds: int = 7,
    only: Annotated[list[str] | None, typer.Option(help="backbones; by default all")] = None,
    untimed: Annotated[bool, typer.Option("--untimed", help="make and export; the page has no times")] = False,
) -> None:
    """Make, export and time every backbone, and write the page."""
    found: list[Measured] = []
    for name in only or NAMES:
        OUT.print(f"== {name}")
        own = size or BACKBONES[name].image_size  # type: ignore[index]
        folder = work / f"{name}-{own}"
        make(folder, data, name, own, (train, epochs, pixels))
        export(folder, data, calib or data / "train", gate)
        engines = build(folder)
        found.append(read(name, own, folder, engines, None if untimed else timed(folder, data, work, rounds)))
        if page is not None:
            page.write_text(written(found))


def make(folder: Path, data: Path, name: str, size: int, training: tuple[int, int, int]) -> None:
    """Make the model, unless it is there; ``training`` is images, epochs and pixels to train at."""
    model = folder / "model.keras"
    folder.mkdir(parents=True, exist_ok=True)
    if not model.exists():
        words = [sys.executable, "-c", MADE, name, str(size), str(data), str(model), *map(str, training)]
        subprocess.run(words, check=True, env=_environment())
        (folder / TRAINED).write_text(json.dumps(training))


def export(folder: Path, data: Path, calib: Path, gate: int) -> None:
    """Make the bundle, unless it is there."""
    model, report = folder / "model.keras", folder / "bundle-report" / "report.json"
    if not report.exists():
        precisions = ("--fp32", "--fp16", "--int8", "--gate-images", str(gate))
        folders = ("--images", str(data / "val"), "--calib", str(calib), "--out", str(folder / "bundle"))
        command = Path(sys.executable).with_name("hybrid-export")
        # what a gate refuses is said in the report
        subprocess.run([str(command), str(model), *precisions, *folders], check=False, env=_environment())


def _environment() -> dict[str, str]:
    path = [str(Path(__file__).parent), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in path if item), "TF_CPP_MIN_LOG_LEVEL": "3"}


def build(folder: Path) -> dict[str, Any]:
    """Build the variants for TensorRT, unless they were; return what was found of each."""
    kept = folder / "engines.json"
    if not kept.exists():
        kept.write_text(json.dumps(dict(builds(folder / "bundle", [ARCHITECTURE]))))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def timed(folder: Path, data: Path, work: Path, rounds: int) -> Path:
    """Time the bundle beside its peers, unless it was; return the file of results."""
    kept = folder / "peers.json"
    if not kept.exists():
        run = Run(folder / "model.keras", folder / "bundle", data / "val", data / "train")
        plan = Plan(run, work, rounds=rounds, images=100, only=(REFERENCE, "OpenVINO", OURS))
        kept.write_text(json.dumps(measure(plan).content))
    return kept


def read(name: str, size: int, folder: Path, engines: Mapping[str, Any], kept: Path | None) -> Measured:
    """Read what an export and its timing left."""
    report = json.loads((folder / "bundle-report" / "report.json").read_text())
    times: dict[int, dict[str, float]] = {}
    for peer in json.loads(kept.read_text())["peers"] if kept else ():
        for batch, spread in peer["times"].items():
            times.setdefault(int(batch), {})[peer["name"]] = 1e3 * spread["median"]
    images, epochs, pixels = json.loads((folder / TRAINED).read_text())
    return Measured(name, size, (images, epochs, pixels), report["variants"], engines, times)


def written(found: list[Measured]) -> str:
    """Write the page."""
    machine = record_machine(read_clocks())
    about = f"{machine.cpu}, {machine.cores} cores, two threads for everyone"
    command = " ".join(["python benchmarks/backbones.py", *(Path(word).name for word in sys.argv[1:])])
    lines = [
        HEAD.format(command=command, machine=about),
        "## Parity",
        "",
        PROOF,
        _rule(PROOF),
    ]
    lines += [row for item in found for row in _proofs(item)]
    lines += [
        "",
        "## TensorRT",
        "",
        "Built with TensorRT-RTX, without a GPU; no engine was run, and what is fused was not seen.",
        "",
        BUILDS,
        _rule(BUILDS),
    ]
    lines += [row for item in found for row in _engines(item)]
    if any(item.times for item in found):
        lines += [
            "",
            "## Time",
            "",
            "Times Keras's time for the same batch; below 1 is faster.",
            "",
            TIMES,
            _rule(TIMES),
        ]
        lines += [row for item in found for row in _times(item)]
    return "\n".join(lines) + "\n"


def _rule(header: str) -> str:
    return "|" + "---|" * (header.replace("\\|", "").count("|") - 1)


def _proofs(item: Measured) -> Iterator[str]:
    for entry in item.entries:
        if entry["name"] not in ("fp32-cpu", "fp16-tensorrt", "int8-cpu", "int8-tensorrt"):
            continue
        parity = entry["parity"]
        accuracy = (parity or {}).get("accuracy") or {}
        figures = ["-"] * 4
        if parity:
            figures = [
                *(f"{accuracy[key]:.1%}" if accuracy else "-" for key in ("keras", "variant")),
                f"{parity['top1_agreement']:.1%}",
                f"{parity['mean_probability_error']:.1e}",
            ]
        verdict = "refused" if entry["refused"] else "passed"
        first, *others = figures
        trained = "{:,} × {}, {} px".format(*item.trained)
        size = f"{entry['size'] / MB:.1f}"
        cells = (item.name, str(item.size), trained, first, entry["name"], *others, size, verdict)
        yield f"| {' | '.join(cells)} |"


def _engines(item: Measured) -> Iterator[str]:
    for title, facts in item.engines.items():
        shares = (facts["convolutions_quantized"], facts["matrix_products_quantized"])
        cells = (item.name, title.split()[0], facts["seconds"], facts["engine_mb"], *shares)
        yield f"| {' | '.join(map(str, cells))} |"


def _times(item: Measured) -> Iterator[str]:
    for batch, times in sorted(item.times.items()):
        reference = times[REFERENCE]
        ours = [times.get(f"{OURS} {precision}") for precision in ("FP32", "INT8")]
        ratios = [f"{value / reference:.2f}" if value else "-" for value in (*ours, *map(times.get, OPENVINO))]
        own = f"{ours[1] / ours[0]:.2f}" if all(ours) else "-"  # type: ignore[operator]
        yield "| " + " | ".join([item.name, str(batch), f"{reference:.1f}", *ratios, own]) + " |"


if __name__ == "__main__":
    typer.run(main)
