from pathlib import Path

import pytest
from support.models.bundles import make_bundle, make_other_answers

from hybrid_edge.runtime.backends.tuning import find_tuning
from hybrid_edge.runtime.bench.cases import BenchProgress, BenchRequest
from hybrid_edge.runtime.bench.tune import _best, tune
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.commands.bench import main
from hybrid_edge.runtime.errors import BackendUnavailableError

NAMES = ("fp32-cpu", "w8-cpu", "int8-cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    return make_bundle(tmp_path / "bundle", variants=[("fp32", "cpu"), ("int8", "cpu"), ("fp32", "cuda")])


def test_every_cpu_variant_is_timed_at_every_batch_size_and_the_fastest_on_other_threads(folder: Path) -> None:
    request = BenchRequest(folder, batches=(1, 3), seconds=0.01)
    found = tune(Bundle.open(folder), request, BenchProgress())
    assert set(found.times) == set(found.tuning.batches) == {1, 3}
    for batch, times in found.times.items():
        assert {name for name, threads in times if threads is None} == {"fp32-cpu", "int8-cpu"}
        choice = found.tuning.batches[batch]
        assert (choice.variant, 1) in times
        assert choice.milliseconds == times[choice.variant, choice.threads]
    assert not found.skipped


def test_a_variant_that_computes_something_else_here_is_left_out_and_never_chosen(folder: Path) -> None:
    bundle = Bundle.open(make_other_answers(folder))
    found = tune(bundle, BenchRequest(folder, batches=(1,), seconds=0.01), BenchProgress())
    assert set(found.skipped) == {"fp32-cpu"}
    assert {name for name, _ in found.times[1]} == {found.tuning.batches[1].variant} == {"int8-cpu"}


def test_the_fastest_is_taken_but_what_hardly_differs_gives_way_to_the_wider_and_the_default() -> None:
    def taken(*times: float) -> tuple[str, int | None]:
        choice = _best(dict(zip([(name, None) for name in NAMES] + [("int8-cpu", 1)], times, strict=True)), NAMES)
        return choice.variant, choice.threads

    assert taken(10, 8, 5, 7) == ("int8-cpu", None)
    assert taken(10, 8, 5, 4) == ("int8-cpu", 1)
    assert taken(10, 8, 5, 4.9) == ("int8-cpu", None)
    assert taken(10, 5.1, 5, 7) == ("w8-cpu", None)
    assert taken(5.1, 5.1, 5, 7) == ("fp32-cpu", None)


def test_the_command_shows_and_keeps_what_it_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["hybrid-bench", str(folder), "--tune", "--batch", "1,2", "--seconds", "0.01"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert "Fastest here: *" in said.out
    assert said.out.count("*") == 3  # one for each batch size
    assert "kept: hybrid-infer takes these" in said.err
    assert set(find_tuning(Bundle.open(folder).manifest.variants).batches) == {1, 2}


def test_a_bundle_without_a_variant_for_the_cpu_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "gpu", variants=[("fp32", "cuda")])
    with pytest.raises(
        BackendUnavailableError,
        match="a variant for the CPU that passed its gate and runs here, found none; hybrid-export",
    ):
        tune(Bundle.open(folder), BenchRequest(folder), BenchProgress())
