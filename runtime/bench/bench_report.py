"""The report of a bench run, its JSON and its CSV: everything that was measured, with the median of each round."""

# mypy: disable-error-code="prop-decorator"
# mypy knows no decorator on a property but its own: python/mypy#1362

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from ..errors import BenchError
from ..manifest import Precision, Target
from ..roofline import Limit, Rates
from ..storage import replacing, write_text
from ..timing import Milliseconds, summarize_times

FORMAT_VERSION = 1
NO_COST = "export again to see the limit: the bundle is from before its variants' costs were recorded"
# share of the median: single rounds then vary by 4 %, the ratio of two medians of twelve by 2 %, and 3 % goes unseen
NOISY = 0.10
DIGITS = 6  # significant ones of a figure in the CSV, as times are known to three or four
MIN_ROUNDS = 5  # rounds: how much fewer of them differ can't be told, and one has none to differ from
BRANCHES = ("cnn", "recurrent", "head")  # as ``cost`` names them
STAGES = ("preprocess", "copy in", *BRANCHES, "copy out")
UNSPLIT = "inference"  # stands for the branches where the engine does not tell them apart


class _ReportPart(BaseModel):
    # a later minor version may add fields; what is computed is written and never read; JSON has no NaN, no infinity
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, ser_json_inf_nan="null")


class Stats(_ReportPart):
    """These are the times of one part of a case, milliseconds a batch.

    ``rounds`` are the medians of the single rounds; the other figures are over all calls of all rounds.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    count: int
    rounds: tuple[float, ...] = Field(min_length=1)

    @classmethod
    def of(cls, rounds: list[Milliseconds]) -> Stats:
        """Return the statistics of the times of each round's calls, milliseconds."""
        medians = tuple(float(np.median(item)) for item in rounds)
        return cls(**asdict(summarize_times(np.concatenate(rounds))), rounds=medians)

    @computed_field
    @property
    def spread(self) -> float:
        """The span from the 10th to the 90th percentile of the rounds' medians, as a share of their median."""
        low, middle, high = (float(value) for value in np.percentile(self.rounds, (10, 50, 90)))
        return _ratio(high - low, middle)

    @computed_field
    @property
    def few(self) -> bool:
        """Whether there are fewer than ``MIN_ROUNDS`` rounds."""
        return len(self.rounds) < MIN_ROUNDS

    @computed_field
    @property
    def noisy(self) -> bool:
        """Whether the rounds differ by more than ``NOISY``, or are too few to tell."""
        return self.few or self.spread > NOISY


class Case(_ReportPart):
    """This is one variant at one batch size, as it was measured.

    ``inference`` is from tensors in the engine's input memory to outputs in the CPU's; ``whole`` from decoded BGR
    frames to labels through ``Classifier.predict``. ``copy_in`` and ``copy_out`` are None where nothing is copied.
    ``shares`` are the branches' parts of the inference without copies, from a separate profile; empty where the
    engine does not tell them apart. ``file_sha256`` is the hash of the variant's file; None in older reports.
    """

    variant: str
    target: Target
    precision: Precision
    device: str
    batch: int
    inference: Stats
    preprocess: Stats
    whole: Stats
    copy_in: Stats | None = None
    copy_out: Stats | None = None
    shares: dict[str, float] = {}
    joules_per_frame: float | None = None
    limit: Limit | None = None
    file_sha256: str | None = None

    @computed_field
    @property
    def name(self) -> str:
        """The name of the case, as in ``int8-cpu b8``, the same in every report."""
        return f"{self.variant} b{self.batch}"

    @computed_field
    @property
    def images_per_s(self) -> float:
        """The throughput of the inference, images a second, one batch after the other."""
        return _ratio(1000 * self.batch, self.inference.mean)

    @computed_field
    @property
    def whole_images_per_s(self) -> float:
        """The throughput of the whole path, images a second, one batch after the other, nothing overlapped."""
        return _ratio(1000 * self.batch, self.whole.mean)

    @computed_field
    @property
    def spread(self) -> float:
        """The spread of the inference's or the whole path's rounds, whichever is larger."""
        return max(self.inference.spread, self.whole.spread)

    @computed_field
    @property
    def few(self) -> bool:
        """Whether the inference or the whole path has too few rounds to tell noise."""
        return self.inference.few or self.whole.few

    @computed_field
    @property
    def noisy(self) -> bool:
        """Whether the inference's or the whole path's rounds differ by more than ``NOISY``, or are too few to tell."""
        return self.inference.noisy or self.whole.noisy

    @computed_field
    @property
    def of_limit(self) -> float | None:
        """The limit as a share of the measured median: 1 is as fast as can be."""
        return None if self.limit is None else _ratio(self.limit.ms, self.inference.p50)

    @computed_field
    @property
    def stages(self) -> dict[str, float]:
        """The medians of the stages in their order, milliseconds a batch; a copy that is not made is 0.

        The branches are ``cnn``, ``recurrent`` and ``head``, or one ``inference`` where they are not told apart.
        """
        before = self.copy_in.p50 if self.copy_in else 0.0
        after = self.copy_out.p50 if self.copy_out else 0.0
        inside = max(0.0, self.inference.p50 - before - after)
        branches = {name: inside * share for name, share in self.shares.items()} or {UNSPLIT: inside}
        return {"preprocess": self.preprocess.p50, "copy in": before, **branches, "copy out": after}


class Start(_ReportPart):
    """These are the medians of fresh processes up to their first prediction; the files were in the page cache.

    ``seconds`` count from the start of the process; parts of them are ``imports``, ``opening`` (hashes, engine),
    ``golden`` (the check on the golden examples) and ``first`` (one frame). ``peak_mib`` is the most resident memory
    that the process held at once, ``gpu_mib`` the GPU's memory that it took, without CUDA's own context.
    """

    seconds: float
    imports: float
    opening: float
    golden: float
    first: float
    peak_mib: float
    gpu_mib: float | None = None
    runs: int


class Clocks(_ReportPart):
    """These figures change while a machine works: load (1 minute), MHz, °C; None where the machine does not tell."""

    load: float
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    gpu_memory_mhz: float | None = None
    gpu_celsius: float | None = None


class Machine(_ReportPart):
    """This is the machine that was measured on, with nothing in it that names this one machine.

    ``before`` has the load when measuring began, and the clocks right after the warm-up; ``after`` has both right after
    the last round.
    """

    cpu: str
    cores: int
    memory_gib: float
    system: str
    governor: str | None = None
    model: str | None = Field(default=None, description="of a board: NVIDIA Jetson Orin Nano …")
    gpu: str | None = None
    power_mode: str | None = None
    idle_watts: float | None = None
    versions: dict[str, str]
    before: Clocks
    after: Clocks | None = None

    @property
    def title(self) -> str:
        """The machine in one line for people."""
        parts = [self.model, self.cpu, f"{self.cores} cores", f"{self.memory_gib:.1f} GiB", self.gpu, self.power_mode]
        return ", ".join(part for part in parts if part)


class BundleRecord(_ReportPart):
    """This record says which model was measured."""

    weights_sha256: str
    branches: str
    image_size: int
    timesteps: int
    classes: int
    run: str = ""


class BenchReport(_ReportPart):
    """This is the whole report. ``skipped`` says why a variant was not run, ``notes`` what a reader must know."""

    format: Literal["hybrid-edge-bench"] = "hybrid-edge-bench"
    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    created: str
    command: str
    settings: dict[str, Any]
    bundle: BundleRecord
    machine: Machine
    cases: tuple[Case, ...]
    starts: dict[str, Start] = {}
    skipped: dict[str, str] = {}
    rates: dict[str, Rates] | None = None
    notes: tuple[str, ...] = ()

    @computed_field
    @property
    def noisy(self) -> tuple[str, ...]:
        """The cases whose rounds differ by more than ``NOISY``, or are too few to tell."""
        return tuple(case.name for case in self.cases if case.noisy)

    def save(self, path: Path) -> None:
        """Write the report as JSON; the file is replaced as a whole."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> BenchReport:
        """Read a report from its JSON.

        Raises:
            BenchError: the file is not there, is no such report, or is of a newer version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise BenchError(f"{path}: expected a report of hybrid-bench --json, found: {error.strerror}") from None
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            raise BenchError(
                f"{path}: expected a report of hybrid-bench --json, format version {FORMAT_VERSION} or older, found: "
                f"{where}: {fault['msg']}; measure again, or upgrade here (pip install -U hybrid-edge)"
            ) from None


def write_csv(report: BenchReport, path: Path) -> None:
    """Write a flat row for each case, times in milliseconds a batch; the file is replaced as a whole."""
    rows = [_csv_row(case, report.starts.get(case.variant)) for case in report.cases]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow({name: float(f"{x:.{DIGITS}g}") if isinstance(x, float) else x for name, x in row.items()})


def _csv_row(case: Case, start: Start | None) -> dict[str, Any]:
    stages = case.stages
    timed = {
        f"{part}_{name}_ms": getattr(stats, name)
        for part, stats in (("inference", case.inference), ("whole", case.whole))
        for name in ("p50", "p90", "p99", "mean")
    }
    return {
        **{name: getattr(case, name) for name in ("variant", "target", "precision", "device", "batch")},
        **timed,
        "images_per_s": case.images_per_s,
        "whole_images_per_s": case.whole_images_per_s,
        "inference_spread": case.inference.spread,
        "whole_spread": case.whole.spread,
        "noisy": case.noisy,
        **{f"{name.replace(' ', '_')}_ms": stages.get(name) for name in (*STAGES, UNSPLIT)},
        "limit_ms": case.limit.ms if case.limit else None,
        "of_limit": case.of_limit,
        "joules_per_frame": case.joules_per_frame,
        "first_prediction_s": start.seconds if start else None,
        "peak_mib": start.peak_mib if start else None,
        "gpu_mib": start.gpu_mib if start else None,
    }


def _ratio(value: float, by: float) -> float:
    """Return a quotient; infinite, null in JSON, where a coarse clock saw ``by`` as 0, and 0 where both are 0."""
    if by:
        return value / by
    return math.inf if value else 0.0
