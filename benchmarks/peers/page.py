"""docs/benchmarks.md: the table of peers and its plot, and below it what the other benchmarks found.

python -m peers.page          (in benchmarks/: writes the page again from results/*.json)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalogue import REFERENCE
from .plot import draw

__all__ = ["write_page"]

ROOT = Path(__file__).parent.parent.parent
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
PLOT = "pictures/peers.png"
# in the order of the page; each is left out until it was run
OTHERS = ("first_prediction", "batch_curve", "training_loop", "feature_cache", "bench_overhead", "preprocess")

INTRODUCTION = """# Benchmarks

This page is written by `make bench` from `benchmarks/results/*.json`; don't edit it. Every number below stands beside
the command that made it. Trust ratios, which come from interleaved runs, more than single times.
"""
METHOD = """Each peer is a process of its own, and one works at a time; the others wait in a read (their CPU time while
waiting is measured, below). Everyone gets the same preprocessed tensors and the same {threads} CPUs. A round visits
every peer at every batch size once, starting with another one each time; a visit is one run that doesn't count and
the median of {runs} (more, where these take less than 50 ms). Times are medians of
{rounds} rounds, in brackets the 10 to 90 % of the rounds. "Labels" is the share of {images} images that get Keras's
label; the gate is the one that `hybrid-export` holds INT8 to: at most half a point of accuracy less than Keras on the
same images. Memory is the process's peak by the time it has classified them.{classes}
"""
COMPARED = "Medians compared, without those that the gate refused, ours or others':"
NOTES = {
    "first_prediction": "A fresh process each time; every step is measured in processes of its own.",
    "batch_curve": """Each branch is cut out of the graph and run alone. A batch of N images takes about "per batch"
plus N times "per image". What is paid per batch, above all the recurrent weights that every timestep reads once for all
images, is spread by batching; the arithmetic of each image is not: below it the cost of an image can't fall.""",
    "training_loop": """From the end of the first step to the end of the last of a visit; tracing, filling of queues and
validation are outside. Large photographs are in memory from the visit before, as from the second epoch on.""",
    "feature_cache": """The first phase behind a frozen CNN: its features read from the cache, or computed in every
step.""",
}


def write_page(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """Write the page from what is in ``results``; ``peers.json`` has to be there."""
    peers = _read(results, "peers")
    assert peers is not None, "expected results/peers.json"  # noqa: S101
    draw(peers, docs / PLOT)
    parts = [INTRODUCTION, _peers(peers)]
    parts += [_other(content) for content in (_read(results, name) for name in OTHERS) if content]
    page = docs / "benchmarks.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _read(results: Path, name: str) -> dict[str, Any] | None:
    path = results / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _peers(content: Mapping[str, Any]) -> str:
    setting, rows, batches = content["setting"], content["peers"], content["setting"]["batches"]
    head = ["engine", "arithmetic", *(f"batch {batch}, ms" for batch in batches), "images/s"]
    head += ["labels", "accuracy", "gate", "memory, MiB"]
    table = [_peer_row(row, batches) for row in sorted(rows, key=lambda row: -row["times"][str(batches[0])]["median"])]
    found = [
        f"- Batch {row['batch']}: **{row['peer']} takes {row['ratio']:.2f} times as long as {row['ours']}** "
        f"({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f} over the rounds; {row['question']})."
        for row in content["comparisons"]
    ]
    missing = [f"- {name}: {reason}" for name, reason in content["skipped"].items()]
    waiting = max(row["waiting_share"] for row in rows)
    return "\n".join(
        [
            f"## The same model on other engines: {setting['model']}",
            "",
            f"    {content['make']}",
            "",
            _machine(content),
            "",
            METHOD.format(**setting, classes=_classes(content)),
            _table(head, table),
            "",
            f"![milliseconds an image by engine and batch]({PLOT})",
            "",
            *([COMPARED, "", *found, ""] if found else []),
            *(["Not in the table:", "", *missing, ""] if missing else []),
            f"While others worked, no peer used more than {waiting:.1%} of a CPU. Versions: {_versions(rows)}.",
            "",
        ]
    )


def _classes(content: Mapping[str, Any]) -> str:
    """Where accuracy says nothing of the model: that the images' classes are labels of Keras's own."""
    accuracy = next((row.get("accuracy") for row in content["peers"] if row["name"] == REFERENCE), None)
    if content["setting"].get("stand_in"):
        why = "the stand-in's own labels"
    elif accuracy is not None and accuracy["keras"] == 1:
        why = "Keras's own labels, as it has all of them right"
    else:
        return ""
    told = "accuracy here is agreement with Keras,\nand says nothing of how good the model is"
    return f"\nThe images' classes are {why}: {told}."


def _peer_row(row: Mapping[str, Any], batches: Sequence[int]) -> list[str]:
    times = [row["times"][str(batch)] for batch in batches]
    speed = max(batch / time["median"] for batch, time in zip(batches, times, strict=True))
    accuracy, passed = row.get("accuracy"), row.get("passed")
    return [
        f"**{row['name']}**" if row["ours"] else row["name"],
        row["precision"],
        *(f"{_ms(time['median'])} ({_ms(time['p10'])}–{_ms(time['p90'])})" for time in times),
        f"{speed:.1f}" if speed < 1000 else f"{speed:.0f}",
        f"{row['agreement']:.1%}",
        "–" if accuracy is None else f"{accuracy['variant']:.1%}",
        "–" if passed is None else ("passed" if passed else "**refused**"),
        "–" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
    ]


def _ms(seconds: float) -> str:
    """Milliseconds, with three digits where they mean something."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _versions(rows: Sequence[Mapping[str, Any]]) -> str:
    found = {package: text for row in rows for package, text in row["versions"].items() if package != "backend"}
    return ", ".join(f"{package} {text}" for package, text in sorted(found.items()))


def _other(content: Mapping[str, Any]) -> str:
    lines = [f"## {content['benchmark'].replace('_', ' ').capitalize()}", "", f"    {content['command']}", ""]
    lines += [_machine(content), ""]
    if note := NOTES.get(content["benchmark"]):
        lines += [note, ""]
    for table in content["tables"]:
        lines += [f"**{table['title']}**", ""]
        if "cases" in table:
            rows = [
                [name, *(f"{case[key] * 1e3:.4g}" for key in ("min", "median", "max")), f"{case['ratio']:.2f}"]
                for name, case in table["cases"].items()
            ]
            head = ["case", "min, ms", "median, ms", "max, ms", f"times {table['baseline']}"]
            lines += [f"{table['rounds']} interleaved rounds.", "", _table(head, rows), ""]
        facts = [f"- {key.replace('_', ' ')}: {_fact(value)}" for key, value in table.get("facts", {}).items()]
        lines += [*facts, ""] if facts else []
    return "\n".join(lines)


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    return ", ".join(map(_fact, value)) if isinstance(value, list) else str(value)


def _machine(content: Mapping[str, Any]) -> str:
    machine = content["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; load at start "
        f"{machine['load_at_start']}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---" if number == 0 else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


if __name__ == "__main__":
    print(f"{write_page().name} written")
