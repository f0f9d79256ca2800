"""The main job on real input: digits as class folders, three trainings, three bundles, held-out images classified.

Run by ``make demo``. Everything is made with the project's own commands, as a user would type them; this file only
calls them and puts what they print side by side.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid_edge.runtime import read_image
from hybrid_edge.runtime.canvas.sheet import GREEN, RED, Cell, Line, write_sheet

MODELS = ("hybrid", "cnn", "rnn")
SEED = "0"
OUT = Console()


def main(folder: Path) -> None:
    """Make everything in ``folder`` and print the table."""
    started = time.perf_counter()
    digits, runs = folder / "digits", folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)  # only ever our own output of the last demo
    run("hybrid-prepare", "digits", digits)
    rows = [one_model(branches, digits, runs, folder) for branches in MODELS]
    held_out = sum(1 for _ in (digits / "test").rglob("*.png"))
    picture = draw_answers(rows[0]["answers"], folder / "answers.png")
    table = Table(title=f"{held_out} held-out digits, never seen in training")
    for column in ("model", "accuracy", "Keras against ONNX: max |Δp| (limit)", "ms per image", "file, MB"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(row["model"], row["accuracy"], row["parity"], row["milliseconds"], row["size"])
    OUT.print(table)
    OUT.print(f"pictures: {picture} (the hybrid's answers, mistakes first)", soft_wrap=True)
    for branches in MODELS:
        OUT.print(f"          {runs / branches}/: curves.png, confusion.png, classes.png", soft_wrap=True)
    OUT.print(f"try: .venv/bin/hybrid-infer {digits}/test/7 --bundle {runs}/hybrid", soft_wrap=True)
    OUT.print(f"{time.perf_counter() - started:.0f} s in all")


def one_model(branches: str, digits: Path, runs: Path, folder: Path) -> dict[str, Any]:
    """Train, export and run one of the three models; its row of the table."""
    options = ["--preset", "digits", "--branches", branches, "--augment", "--seed", SEED]
    run("hybrid-train", digits, *options, "--runs", runs, "--name", branches)
    run("hybrid-export", runs / branches)
    lines = folder / f"{branches}.jsonl"
    with lines.open("w") as output:
        run("hybrid-infer", digits / "test", "--bundle", runs / branches / "bundle", "--json", stdout=output)
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    variant = json.loads((runs / branches / "bundle" / "manifest.json").read_text())["variants"][0]
    right = [answer["labels"][0] == Path(answer["source"]).parent.name for answer in answers]
    times = [answer["preprocess_ms"] + answer["inference_ms"] for answer in answers]
    parity = variant["parity"]
    return {
        "model": branches,
        "accuracy": f"{np.mean(right):.1%}",
        "parity": f"{parity['max_probability_error']:.1e} ({parity['probability_limit']:.0e})",
        "milliseconds": f"{np.median(times):.2f}",
        "size": f"{variant['file']['size'] / 1e6:.2f}",
        "answers": answers,
    }


def run(*arguments: object, stdout: Any = None) -> None:
    """Show a command and run it; the demo ends with the command's exit code if it fails."""
    words = [str(argument) for argument in arguments]
    OUT.rule(" ".join(words), align="left")
    code = subprocess.run(words, stdout=stdout, check=False).returncode
    if code:
        sys.exit(code)


def draw_answers(answers: list[dict[str, Any]], path: Path, count: int = 60) -> Path:
    """A sheet of held-out digits with the model's answer below each: green right, red wrong, mistakes first."""

    def wrong(answer: dict[str, Any]) -> bool:
        return bool(answer["labels"][0] != Path(answer["source"]).parent.name)

    order = np.random.default_rng(0).permutation(len(answers))
    chosen = sorted((answers[index] for index in order), key=lambda answer: not wrong(answer))[:count]
    cells = [
        Cell(
            read_image(answer["source"]),
            (Line(answer["labels"][0], f"{answer['probabilities'][0]:.0%}", RED if wrong(answer) else GREEN),),
        )
        for answer in chosen
    ]
    mistakes = sum(map(wrong, answers))
    note = "the mistakes, then digits that were read right"
    write_sheet(path, cells, f"{mistakes} mistakes in {len(answers)} held-out digits", note)
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
