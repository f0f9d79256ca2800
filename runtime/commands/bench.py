"""The ``hybrid-bench`` command measures latency, throughput, memory and limits of a bundle's variants here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from .. import console
from ..errors import UsageError
from ..storage import check_writable
from ..trust import Trust
from .options import ExpectSha256Option, ProfileOption, RequireSignatureOption, ThreadsOption, refuse_others

if TYPE_CHECKING:
    from ..bench.bench_report import BenchReport
    from ..bench.cases import BenchProgress, BenchRequest

# options of each panel of --help
WHAT, HOW, RESULTS, LIMITS = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("What", "How long", "Results", "Limits")
)
BESIDE_TUNE = ("BUNDLE", "--batch", "--seconds", "--expect-sha256", "--require-signature")
BESIDE_PREDICT_FOR = ("BUNDLE", "--batch", "--backend", "--precision", "--variant")


def bench(
    context: typer.Context,
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            help="Bundle folder or tar, or a run folder.",
            show_default="./manifest.json, ./bundle, runs/latest/bundle",
        ),
    ] = None,
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    batch: Annotated[str, WHAT(metavar="N,N,…", help="Batch sizes, each a case of its own.")] = "1,2,4,8",
    backend: Annotated[
        str | None, WHAT(metavar="NAMES", help="tensorrt, cuda, cpu: only these.", show_default="all")
    ] = None,
    precision: Annotated[
        str | None, WHAT(metavar="NAMES", help="fp32, w8, fp16, int8: only these.", show_default="all")
    ] = None,
    variant: Annotated[
        str | None, WHAT(metavar="NAMES", help="Variants of the bundle: only these.", show_default="all")
    ] = None,
    threads: ThreadsOption = None,
    profile: ProfileOption = None,
    seconds: Annotated[float, HOW(help="For which each part of a case is measured.")] = 2.0,
    rounds: Annotated[int, HOW(min=1, help="In how many rounds, each through all cases.")] = 12,
    starts: Annotated[
        int, HOW(min=0, help="Fresh processes of each variant, for memory and time to first prediction.")
    ] = 3,
    json: Annotated[Path | None, RESULTS(metavar="FILE", help="All of it, for machines and --compare.")] = None,
    csv: Annotated[Path | None, RESULTS(metavar="FILE", help="A flat row for each case.")] = None,
    plot: Annotated[Path | None, RESULTS(metavar="FILE.png", help="Latency by batch, split by branch.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        RESULTS(
            metavar="A.json B.json",
            help="Measure nothing: what got faster or slower from A to B, beyond the noise.",
            show_default=False,
        ),
    ] = None,
    tuned: Annotated[
        bool,
        RESULTS(
            "--tune",
            help="Only find the CPU variant and threads that are fastest here by --batch; hybrid-infer takes them.",
        ),
    ] = False,
    probe: Annotated[
        bool, LIMITS("--probe", help="Measure this CPU's peak rates: the limit beside its numbers.")
    ] = False,
    rates: Annotated[
        str | None,
        LIMITS(metavar="DEVICE", help="The limit beside the numbers, from this device's published rates."),
    ] = None,
    predict_for: Annotated[
        str | None,
        LIMITS(
            metavar="DEVICE",
            help="Measure nothing: the bound on a device that isn't here: orin-nano, orin-nano-super, agx-orin, ….",
        ),
    ] = None,
) -> None:
    """Measure a bundle's variants on this machine: latency, throughput, memory, and where the time goes.

    Every variant that runs here × every batch size, in interleaved rounds, so that
    a machine that drifts does so for all alike. End other programs first.

    Tables go to stdout, everything else to stderr. Exit code 0: done; 1: something
    failed; 2: wrong usage; 3: a variant asked for computes something else here
    than where it was exported; 130: interrupted, and nothing was written.

    Example: hybrid-bench runs/latest --json before.json --plot before.png

    Example: hybrid-bench --compare before.json after.json

    Example: hybrid-bench --predict-for orin-nano-super

    Example: hybrid-bench runs/latest --tune
    """
    from ..bench.bench_report import BenchReport, write_csv  # noqa: PLC0415  # --help should not wait for these
    from ..bench.cases import BenchRequest, predict_limits  # noqa: PLC0415
    from ..bench.report_changes import compare_reports  # noqa: PLC0415
    from ..bench.report_plot import write_plot  # noqa: PLC0415
    from ..bench.report_tables import show_changes, show_predictions, show_report  # noqa: PLC0415
    from ..bench.rounds import bench as measure  # noqa: PLC0415

    if compare is not None:
        refuse_others(context, "--compare", ())
        show_changes(compare_reports(*map(BenchReport.load, compare)))
        return
    if predict_for is not None:
        refuse_others(context, "--predict-for", BESIDE_PREDICT_FOR)
    request = BenchRequest(
        bundle,
        trust=Trust.from_flags(expect_sha256, require_signature),
        batches=_numbers(batch),
        backends=_names(backend),
        precisions=_names(precision),
        variants=_names(variant),
        seconds=seconds,
        rounds=rounds,
        threads=threads,
        probe=probe,
        rates=rates,
        starts=starts,
        profile=profile,
    )
    if predict_for is not None:
        show_predictions(*predict_limits(request, predict_for))
        return
    if tuned:
        refuse_others(context, "--tune", BESIDE_TUNE)
        _tune(request)
        return
    files = {name: path for name, path in (("json", json), ("csv", csv), ("plot", plot)) if path is not None}
    _check_files(files)
    with _progress() as progress:
        report = measure(request, progress)
    writers: dict[str, Callable[[BenchReport, Path], None]] = {
        "json": BenchReport.save,
        "csv": write_csv,
        "plot": write_plot,
    }
    try:
        show_report(report)
    finally:  # what took minutes to measure is kept where stdout's disk is full
        for name, path in files.items():
            writers[name](report, path)
            console.say(f"written: {path}")


def _tune(request: BenchRequest) -> None:
    from ..backends.tuning import keep_tuning  # noqa: PLC0415  # --help should not wait for these
    from ..bench.report_tables import show_tuned  # noqa: PLC0415
    from ..bench.tune import tune  # noqa: PLC0415
    from ..bundle import Bundle  # noqa: PLC0415

    bundle = Bundle.open(request.bundle, request.trust)
    with _progress() as progress:
        found = tune(bundle, request, progress)
    show_tuned(found)
    if keep_tuning(bundle.manifest.variants, found.tuning, partial(console.say, style="yellow")):
        console.say("kept: hybrid-infer takes these from its next start on, until graphs, engine, CPU or clocks change")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError:
        raise UsageError(f"expected --batch as numbers such as 1,2,4,8, found {text!r}") from None


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _check_files(files: Mapping[str, Path]) -> None:
    """Refuse, before minutes of measuring, files that could not be written after them."""
    for name, path in files.items():
        check_writable(f"--{name}", path, ".png" if name == "plot" else "")
    if len({path.resolve() for path in files.values()}) < len(files):
        found = ", ".join(map(str, files.values()))
        raise UsageError(f"expected a file of its own for each of --json, --csv and --plot, found {found}")
    if "plot" in files:
        from ..bench.report_plot import require_matplotlib  # noqa: PLC0415

        require_matplotlib()


@contextmanager
def _progress() -> Iterator[BenchProgress]:
    """Show a bar of the part of the work under way, drawn between measurements and never during one."""
    from ..bench.cases import BenchProgress  # noqa: PLC0415
    from ..engines.progress import make_reporter  # noqa: PLC0415

    bar = console.progress(transient=True)
    bar.live.auto_refresh = False  # a thread that draws ten times a second would disturb the measurement
    task = bar.add_task("", visible=False)

    def begin(name: str, count: int) -> None:
        bar.start()  # building an engine shows its own bar in this one's place
        bar.reset(task, total=count, description=name, visible=True)
        bar.refresh()

    def step() -> None:
        bar.advance(task)
        bar.refresh()

    try:
        yield BenchProgress(begin, step, make_reporter(bar.stop))
    finally:
        bar.stop()


app = console.make_app(bench)


def main() -> NoReturn:
    """Run ``hybrid-bench`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
