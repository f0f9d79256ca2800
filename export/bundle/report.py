"""Reports an export: for every variant the figures of its gate, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json
from rich import box
from rich.table import Table
from rich.text import Text

from ...runtime import console
from ...runtime.manifest import Accuracy, Check, Parity, Precision, RecurrentForm, Target, Temperature, Variant
from ...runtime.storage import write_bytes

Justify = Literal["left", "right"]

DIAGRAMS = "reliability.png"  # the reliability diagrams' file, beside the report
MB = 1e6


class ReportEntry(BaseModel):
    """A variant as the report has it, also one that was refused and so is in no manifest.

    ``size`` is the artifact's size in bytes; ``refused`` says why the variant is not in the bundle, and is empty where
    it is; ``flips`` names the contact sheet of its flipped images, beside the report; ``parity`` is None where the
    variant could not even be run. ``time_ratio`` is its time over that of the next wider precision, one image at a
    time, on this machine; None where that was not timed. ``no_temperature`` says why a variant that passed has no
    temperature.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    precision: Precision
    targets: tuple[Target, ...]
    recurrent: RecurrentForm
    size: int
    parity: Parity | None = None
    branches: tuple[str, ...] = ()
    operators: dict[str, int] = {}
    warnings: tuple[str, ...] = ()
    refused: str = ""
    flips: str = ""
    time_ratio: float | None = None
    temperature: Temperature | None = None
    no_temperature: str = ""

    @classmethod
    def of(cls, variant: Variant, *, flips: str = "", no_temperature: str = "") -> ReportEntry:
        """Make the entry of a variant that passed; ``flips`` names its contact sheet, if it has one."""
        return cls(
            name=variant.name,
            precision=variant.precision,
            targets=(variant.target,),
            recurrent=variant.recurrent,
            size=variant.file.size,
            parity=variant.parity,
            branches=variant.branches,
            operators=variant.operators,
            warnings=variant.warnings,
            flips=flips,
            temperature=variant.temperature,
            no_temperature=no_temperature,
        )

    @property
    def passed(self) -> bool:
        """Whether the variant passed its gate, and so is in the bundle."""
        return not self.refused and self.parity is not None and self.parity.passed

    @property
    def form(self) -> str:
        """The precision and the form of the recurrent branch, which variants for several targets share."""
        return f"{self.precision} unrolled" if self.recurrent == "unrolled" else self.precision


def show_report(entries: Iterable[ReportEntry]) -> None:
    """Print the tables and the branches' precisions on stdout, the warnings and what was refused on stderr.

    The order is that of ``entries``; those that share an artifact and its figures become one row.
    """
    rows = _joined(entries)
    for table in _tables(rows):
        console.stdout.print(table)
        console.stdout.print()
    for entry in rows:
        for line in _facts(entry):
            console.stdout.print(f"{entry.form} for {', '.join(entry.targets)}: {line}", markup=False, soft_wrap=True)
    for reason in dict.fromkeys(entry.no_temperature for entry in rows if entry.no_temperature):
        console.stdout.print(f"no temperature for --calibrated: {reason}", markup=False, soft_wrap=True)
    for warning in dict.fromkeys(line for entry in rows for line in _warnings(entry)):
        console.say(f"warning: {warning}", style="yellow")
    for entry in rows:
        if entry.refused:
            console.status.print(f"refused: {entry.refused}", style="red", markup=False, soft_wrap=True)


def write_report(path: Path, entries: Sequence[ReportEntry], content: Mapping[str, Any] | None = None) -> None:
    """Write the report as JSON, the file replaced as a whole; NaN and infinity become null.

    ``content`` is what else belongs to the report, by name: the seconds of the steps, the calibration, ...
    """
    data = {
        "format": "hybrid-edge-report",
        "variants": [_record(entry) for entry in entries],
        **(content or {}),
    }
    write_bytes(path, to_json(data, indent=2, inf_nan_mode="null") + b"\n")


def gates_table(entries: Sequence[ReportEntry]) -> Table:
    """Make a table of one row for each entry: size, agreement with Keras, accuracy of both, and whether it passed."""
    names = ("MB", "images", "same\nlabel", "margin\n> 0.1")
    table = _table("variants beside Keras", dict.fromkeys(names, "right"))
    table.add_column("accuracy, %\ndrop, points (95 %)", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    for entry in entries:
        verdict = Text("passed", "green") if entry.passed else Text("refused", "bold red")
        table.add_row(_title(entry), f"{entry.size / MB:.1f}", *_gate_cells(entry.parity), verdict)
    return table


def differences_table(entries: Sequence[ReportEntry]) -> Table:
    """Make a table of one row for each entry that was run: how far its numbers are from Keras's."""
    names = ("top-5\noverlap", "max\n|Δp|", "mean\n|Δp|", "logits", "drift", "neigh-\nbours")
    table = _table("differences from Keras", dict.fromkeys(names, "right"))
    table.caption = (
        "logits, and the same row beside other neighbours: max |Δ| / max |logit|; "
        "drift: hidden state after the last timestep, RMS Δ / RMS"
    )
    for entry in entries:
        if entry.parity is not None:
            table.add_row(_title(entry), *_difference_cells(entry.parity))
    return table


def checks_table(entry: ReportEntry, parity: Parity) -> Table:
    """Make a table of every figure of one entry that has a limit, beside that limit."""
    title = f"{entry.form} for {', '.join(entry.targets)} on {parity.images} images"
    table = _table(title, {"found": "right", "limit": "right", "": "left"})
    table.caption = parity.measured_on
    for check in parity.checks:
        verdict = Text("passed", "green") if check.passed else Text("failed", "bold red")
        number = _share if _is_share(check) else _small
        limit = f"{100 * check.limit:g} %" if _is_share(check) else f"{check.limit:.0e}"
        name = check.name.replace("difference", "Δ")
        table.add_row(name, number(check.found), f"{'≤' if check.at_most else '≥'} {limit}", verdict)
    if parity.agreement_limit is None:
        table.add_row("top-1 agreement", _share(parity.top1_agreement))
    return table


def _tables(entries: Sequence[ReportEntry]) -> Iterator[Table]:
    yield gates_table(entries)
    if any(entry.parity for entry in entries):
        yield differences_table(entries)
    shown = False
    for entry in entries:
        # FP32 is judged by its numbers, which the first table can't show; others are listed only where they failed
        first = entry.precision == "fp32" and not shown
        if entry.parity and (first or not entry.parity.passed):
            shown = shown or first
            yield checks_table(entry, entry.parity)


def _table(title: str, columns: Mapping[str, Justify]) -> Table:
    """Make an empty table whose first column, the only one that may fold, has no name."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", overflow="fold")
    for name, justify in columns.items():
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def _title(entry: ReportEntry) -> str:
    simulated = ", simulated" if entry.parity and entry.parity.simulated else ""
    return f"{entry.form}\n{', '.join(entry.targets)}{simulated}"


def _gate_cells(parity: Parity | None) -> tuple[str, ...]:
    if parity is None:
        return (console.ABSENT,) * 4
    return (
        str(parity.images),
        _share(parity.top1_agreement),
        _or_none(parity.confident_agreement, _share),
        _accuracy(parity.accuracy),
    )


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return console.ABSENT
    drop, low, high = (f"{100 * value:.1f}" for value in (accuracy.drop, accuracy.drop_low, accuracy.drop_high))
    return f"{100 * accuracy.keras:.1f} → {100 * accuracy.variant:.1f}\n{drop} ({low} to {high})".replace("-", "−")


def _difference_cells(parity: Parity) -> tuple[str, ...]:
    return (
        _or_none(parity.top5_overlap, _share),
        _small(parity.max_probability_error),
        _small(parity.mean_probability_error),
        _small(parity.max_logit_error),
        _or_none(parity.hidden_drift[-1] if parity.hidden_drift else None, _small),
        _or_none(parity.neighbour_error, _small),
    )


def _joined(entries: Iterable[ReportEntry]) -> list[ReportEntry]:
    """Join entries that differ in their target alone into one entry of all these targets."""
    joined: list[ReportEntry] = []
    for entry in entries:
        for place, other in enumerate(joined):
            if _artifact(other) == _artifact(entry):
                joined[place] = other.model_copy(update={"targets": (*other.targets, *entry.targets)})
                break
        else:
            joined.append(entry)
    return joined


def _artifact(entry: ReportEntry) -> tuple[object, ...]:
    return entry.form, entry.size, entry.parity, entry.refused, entry.branches, entry.operators


def _facts(entry: ReportEntry) -> Iterator[str]:
    if entry.branches:
        yield "; ".join(entry.branches)
    if entry.flips and entry.parity:
        yield f"{entry.parity.flips} of {entry.parity.images} labels flipped, shown in {entry.flips}"
    if found := entry.temperature:
        after = f" → {100 * found.error_after:.1f} %" if found.value != 1 else ""
        kept = "" if found.value != 1 else ", no smaller at another"
        error = f"calibration error {100 * found.error_before:.1f} %{after}"
        yield f"temperature {found.value:.3g}: {error} on {found.images} images{kept}, shown in {DIAGRAMS}"


def _warnings(entry: ReportEntry) -> tuple[str, ...]:
    return (*(entry.parity.warnings if entry.parity else ()), *entry.warnings)


def _record(entry: ReportEntry) -> dict[str, Any]:
    checks = entry.parity.checks if entry.parity else ()
    return {
        **entry.model_dump(),
        "passed": entry.passed,
        "checks": [{**check._asdict(), "passed": check.passed} for check in checks],
    }


def _or_none(value: float | None, number: Callable[[float], str]) -> str:
    return console.ABSENT if value is None else number(value)


def _share(value: float) -> str:
    return f"{100 * value:.2f} %" if value < 1 else "100 %"


def _small(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _is_share(check: Check) -> bool:
    return not check.at_most or check.name == "accuracy drop"
