import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.machines.commands import Ended

from hybrid_edge.runtime.bench import report_plot as plot
from hybrid_edge.runtime.bench.bench_report import BenchReport
from hybrid_edge.runtime.commands import bench as bench_command

QUICK = ("--batch", "1,2", "--seconds", "0.001", "--rounds", 2, "--threads", 1, "--starts", 0, "--backend", "cpu")
Alter = Callable[..., BenchReport]
Command = Callable[..., Ended]


@pytest.fixture
def command(call: Callable[..., Ended]) -> Command:
    return partial(call, "hybrid-bench", bench_command.main)


@pytest.fixture
def beside_bundle(command: Command, bench_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in a folder with a bundle in the usual place."""
    monkeypatch.chdir(bench_bundle.parent)
    return command


def test_of_the_usual_bundle_tables_go_to_stdout_and_files_are_written(beside_bundle: Command, tmp_path: Path) -> None:
    files = {name: tmp_path / f"report.{name}" for name in ("json", "csv")}
    code, out, err = beside_bundle(*QUICK, "--json", files["json"], "--csv", files["csv"])
    assert code == 0, err
    for title in ("latency, ms a batch", "where the time goes", "CNN", "recurrent", "img/s"):
        assert title in out
    assert re.search(r"fp32-cpu +1 +\d", out)
    assert "…" not in out  # rich cut nothing off
    report = BenchReport.load(files["json"])
    assert [case.batch for case in report.cases] == [1, 2]
    assert report.command.startswith("hybrid-bench ")
    assert str(tmp_path) not in report.command
    assert len(files["csv"].read_text().splitlines()) == 3
    assert f"written: {files['json']}" in err


def test_where_stdouts_disk_is_full_the_report_is_kept(bench_bundle: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from hybrid_edge.runtime.commands.bench import main; main()", bench_bundle, *QUICK]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*map(str, words), "--json", tmp_path / "a.json"], stdout=full, stderr=-1, check=False)
    assert (done.returncode, b"expected room on the disk" in done.stderr) == (1, True)
    assert len(BenchReport.load(tmp_path / "a.json").cases) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--batch", "x"), 2, "expected --batch as numbers"),
        (("--rounds", "0"), 2, "--rounds"),
        (("--json", "nowhere/a.json"), 2, "--json nowhere/a.json: expected the folder nowhere to exist"),
        (("--csv", "."), 2, "found a folder of that name"),
        (("--json", "a.json", "--csv", "./a.json"), 2, "expected a file of its own for each of --json, --csv"),
        (("--predict-for", "h200", "--backend", "cpu"), 1, "expected a variant for cuda or tensorrt, which h200 runs"),
        (("--plot", "a.svg"), 2, "--plot a.svg: expected a name that ends in .png, found .svg"),
        (("--predict-for", "toaster"), 2, "expected one of orin-nano-4, orin-nano"),
        (("--compare", "a.json", "b.json"), 1, "a.json: expected a report of hybrid-bench --json"),
        (("--rates", "toaster"), 2, "error: expected one of orin-nano-4, orin-nano"),
        (
            ("--predict-for", "thor", "--batch", "1", "--json", "p.json", "--plot", "q.jpg"),
            2,
            "--predict-for: expected nothing beside it but BUNDLE, --batch, --backend, --precision, --variant, "
            "found --json, --plot; leave",
        ),
        (("--compare", "a.json", "b.json", "--json", "c.json"), 2, "--compare: expected nothing beside it, found --"),
        (("bundle", "--compare", "a.json", "b.json", "--probe"), 2, "found BUNDLE, --probe; leave out one or"),
        (("--compare", "a.json", "b.json", "--predict-for", "thor"), 2, "found --predict-for; leave out one or"),
        (("--compare", "a.json", "b.json", "--batch", "1,2,4,8"), 2, "found --batch; leave out one or"),
        (("--profile", "1,8"), 2, "expected a batch profile of MIN,OPT,MAX"),
        (("missing",), 1, "missing: expected a bundle"),
        (("--unknown",), 2, "No such option"),
    ],
)
def test_a_mistake_ends_with_its_documented_code_and_one_clear_message(
    beside_bundle: Command, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = beside_bundle(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_folder_that_can_not_be_written_to_is_refused_before_anything_is_measured(
    command: Command, bench_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != tmp_path)  # root may write everywhere
    monkeypatch.setattr("hybrid_edge.runtime.bench.rounds.bench", lambda *_: pytest.fail("measured"))
    code, out, err = command(bench_bundle, *QUICK, "--csv", tmp_path / "a.csv")
    assert (code, out) == (2, "")
    assert f"expected to be allowed to write into {tmp_path}, found that it is not" in " ".join(err.split())


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    command: Command, bench_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    code, out, err = command(bench_bundle, *QUICK, "--plot", tmp_path / "a.png")
    assert (code, out) == (1, "")
    assert "pip install 'hybrid-edge[plot]'" in err


def test_reports_are_compared_and_what_changed_is_told(command: Command, altered: Alter, tmp_path: Path) -> None:
    whole = [9.0, 9.01, 9.01, 9.01, 9.02]
    steady = {"fp32-cpu b1": ([5.0, 5.01, 5.01, 5.01, 5.02], whole), "fp32-cpu b3": ([8.0] * 5, [9.0] * 5)}
    altered(steady).save(tmp_path / "a.json")
    altered({**steady, "fp32-cpu b1": ([4.0, 4.01, 4.01, 4.01, 4.02], whole)}).save(tmp_path / "b.json")
    code, out, _ = command("--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0
    assert re.search(r"fp32-cpu b1 +inference +5\.01 +4\.01 +0\.800 .*faster", out)
    assert re.search(r"fp32-cpu b1 +whole .*same", out)


def test_a_prediction_measures_nothing_and_says_that_it_is_one(
    command: Command, bench_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.bench.rounds.bench", lambda *_: pytest.fail("measured"))
    code, out, err = command(bench_bundle, "--predict-for", "orin-nano", "--batch", "1,8")
    assert code == 0, err
    assert "predicted bound, not measured" in out
    assert "Jetson Orin Nano 8GB" in out
    assert re.search(r"fp16-tensorrt +1 +\d", out)
    assert "fp32-cpu" not in out  # that device's rates are its GPU's
    assert "rates:" in out


def test_only_variants_that_a_device_runs_are_predicted(command: Command, bench_bundle: Path) -> None:
    _, out, _ = command(bench_bundle, "--predict-for", "h200", "--backend", "cpu,tensorrt", "--batch", "1")
    assert re.search(r"^ *fp16-tensorrt +1 +\d", out, re.MULTILINE)
    assert "fp32-cpu" not in out, "the rates are the GPU's"
    _, out, _ = command(bench_bundle, "--predict-for", "rpi5", "--batch", "1")
    assert re.search(r"^ *fp32-cpu +1 +\d", out, re.MULTILINE)
    assert "tensorrt" not in out


def test_a_prediction_without_any_recorded_cost_is_refused(command: Command, folder: Path) -> None:
    code, out, err = command(folder, "--predict-for", "rpi5")
    assert (code, out) == (1, "")
    assert "expected a variant whose cost is recorded, found none; export again to see the limit" in err
