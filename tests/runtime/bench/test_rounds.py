import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.gpu.engine_fixtures import skip_where_tensorrt_runs
from support.models.bundles import SPEC, change_manifest, make_bundle, store

from hybrid_edge.runtime.backends import open_variant
from hybrid_edge.runtime.backends.tensorrt import find_tensorrt
from hybrid_edge.runtime.bench import rounds as module
from hybrid_edge.runtime.bench.bench_report import BenchReport, Clocks
from hybrid_edge.runtime.bench.cases import BenchProgress, BenchRequest, make_case, make_frames
from hybrid_edge.runtime.bench.fresh_process import measure_starts
from hybrid_edge.runtime.bench.rounds import bench, branch_shares
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BackendError, BundleError, GateError, UsageError
from hybrid_edge.runtime.roofline import Rates, rates_of

OWN = Rates("here", {"fp32": 1.0}, 1.0, None, None, "by hand", measured=True)
QUICK: dict[str, Any] = {"batches": (1,), "seconds": 1e-4, "rounds": 2, "warm_up": 0.0, "threads": 1, "starts": 0}


def test_every_variant_that_runs_here_is_a_case_at_every_batch_size_with_its_branches_shares(
    measured: BenchReport, bench_bundle: Path
) -> None:
    assert [case.name for case in measured.cases] == ["fp32-cpu b1", "fp32-cpu b3"]
    for case in measured.cases:
        parts = (case.inference, case.preprocess, case.whole)
        assert {len(part.rounds) for part in parts} == {5}
        assert all(0 < part.p50 <= part.p90 <= part.p99 for part in parts)
        assert case.device.startswith("ONNX Runtime")
        assert (case.copy_in, case.copy_out) == (None, None)
        assert case.file_sha256 == Bundle.open(bench_bundle).manifest.variants[0].file.sha256
        assert set(case.shares) == {"cnn", "recurrent", "head"}
        assert sum(case.shares.values()) == pytest.approx(1)
        assert min(case.shares.values()) > 0


def test_what_does_not_run_here_is_left_out_with_the_reason(measured: BenchReport) -> None:
    skip_where_tensorrt_runs()
    assert list(measured.skipped) == ["fp16-tensorrt"]
    with pytest.raises(BackendError) as refusal:
        find_tensorrt()
    assert measured.skipped["fp16-tensorrt"] == str(refusal.value)


def test_a_fresh_process_says_its_time_and_its_own_peak_of_memory(measured: BenchReport) -> None:
    start = measured.starts["fp32-cpu"]
    assert start.seconds == pytest.approx(start.imports + start.opening + start.golden + start.first)
    assert min(start.imports, start.opening, start.golden, start.first) > 0
    assert 20 < start.peak_mib < 1000
    assert start.gpu_mib is None


def test_the_record_names_the_model_and_how_it_was_measured_no_place(measured: BenchReport, bench_bundle: Path) -> None:
    text = measured.model_dump_json()
    assert measured.bundle.weights_sha256 == "0" * 64
    assert measured.settings["rounds"] == 5
    assert measured.machine.after is not None
    assert str(bench_bundle) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_limits_are_shown_where_rates_and_costs_are_known(bench_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda *_: OWN)
    limit = bench(BenchRequest(bench_bundle, probe=True, **QUICK)).cases[0].limit
    assert limit.by_branch == {"cnn": 0.2, "recurrent": 0.1, "head": 0.004}  # 10^9 MAC/s and 10^9 bytes/s
    assert limit.limited_by["head"] == "memory"
    assert limit.ms == pytest.approx(0.304)


def test_the_better_of_the_probes_before_and_after_counts(bench_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    pending = iter((OWN, replace(OWN, gmacs={"fp32": 2.0})))

    def probe(*_: object) -> Rates:
        events.append("probe")
        return next(pending)

    monkeypatch.setattr(module, "probe", probe)
    progress = BenchProgress(lambda name, _count: events.append(name))
    report = bench(BenchRequest(bench_bundle, probe=True, **QUICK), progress)
    assert events[events.index("probing") :] == ["probing", "probe", "measuring", "probing again", "probe", "profiling"]
    limit = report.cases[0].limit
    assert limit.by_branch["cnn"] == 0.1  # at the second's 2 · 10^9 MAC/s
    assert report.rates["cpu"].gmacs == {"fp32": 2.0}


def test_a_bundle_without_costs_is_told_to_be_exported_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda *_: OWN)
    report = bench(BenchRequest(folder, probe=True, **QUICK))
    assert report.cases[0].limit is None
    assert any("export again to see the limit" in note for note in report.notes)


def test_a_single_round_is_never_called_quiet(bench_bundle: Path) -> None:
    report = bench(BenchRequest(bench_bundle, **{**QUICK, "rounds": 1}))
    assert report.cases[0].spread == 0
    assert report.noisy == ("fp32-cpu b1",)
    assert any("fp32-cpu b1: too few rounds to tell; measure again with --rounds 5" in note for note in report.notes)


def test_clocks_are_read_after_the_warm_up_and_last_round(bench_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    readings = [Clocks(load=0.25, cpu_mhz=800), Clocks(load=2, cpu_mhz=4000), Clocks(load=3, cpu_mhz=2000)]
    pending = iter(readings)

    def read() -> Clocks:
        events.append("clocks")
        return next(pending)

    monkeypatch.setattr(module, "read_clocks", read)
    steps = BenchProgress(lambda name, _count: events.append(name), lambda: events.append("step"))
    report = bench(BenchRequest(bench_bundle, **QUICK), steps)
    assert events[events.index("measuring") :][:5] == ["measuring", "clocks", "step", "step", "clocks"]
    assert (report.machine.before, report.machine.after) == (Clocks(load=0.25, cpu_mhz=4000), readings[2])
    assert "clocks fell while it was measured: CPU 4000 to 2000 MHz" in report.notes


def test_a_devices_rates_are_for_its_targets_and_the_cpus_own_come_first(
    bench_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit_rates(**wanted: Any) -> str | None:
        report = bench(BenchRequest(bench_bundle, **QUICK, **wanted))
        case, rates = report.cases[0], report.rates or {}
        return None if case.limit is None else rates[case.target].name

    monkeypatch.setattr(module, "probe", lambda *_: OWN)
    assert limit_rates(rates="rpi5") == rates_of("rpi5").name
    assert limit_rates(rates="rpi5", probe=True) == "here"
    assert limit_rates(rates="orin-nano") is None


def test_no_place_of_this_machine_is_left_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "bundle", variants=(("fp32", "cpu"), ("int8", "cpu")))
    manifest = Bundle.open(folder).manifest
    model = onnx.load_from_string((folder / manifest.variants[1].file.path).read_bytes())
    model.opset_import[0].version = 999  # which no engine knows
    file = store(folder, "artifacts", "onnx", model.SerializeToString())
    broken = manifest.variants[1].model_copy(update={"file": file})
    bundle = change_manifest(folder, variants=(manifest.variants[0], broken))
    with pytest.raises(BackendError) as refusal:
        open_variant(bundle, broken)
    assert str(folder) in str(refusal.value), "else there would be nothing to take out"
    monkeypatch.setattr(sys, "argv", ["/venv/bin/hybrid-bench", str(folder), f"--json={tmp_path}/my dir/a.json"])
    report = bench(BenchRequest(folder, **QUICK))
    assert list(report.skipped) == ["int8-cpu"]
    assert str(tmp_path) not in report.model_dump_json()
    assert report.command == "hybrid-bench bundle --json=a.json"


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"backends": ("tpu",)}, UsageError, "expected a backend of tensorrt, cuda, cpu, found 'tpu'"),
        ({"precisions": ("int4",)}, UsageError, "expected a precision of fp32, w8, fp16, int8, found 'int4'"),
        ({"variants": ("fast",)}, UsageError, "expected a variant of fp32-cpu, fp16-tensorrt, found 'fast'"),
        ({"backends": ("cuda",)}, BundleError, "expected a variant that is cuda, found fp32-cpu, fp16-tensorrt"),
        ({"batches": ()}, UsageError, "expected batch sizes from 1 to 4096, found none"),
        ({"batches": (0, 1)}, UsageError, "found 0,1"),
        ({"batches": (2, 2)}, UsageError, "expected each batch size once"),
        ({"seconds": 0}, UsageError, "expected more than 0 seconds"),
        ({"seconds": float("inf")}, UsageError, "found inf and 0.0"),
        ({"seconds": float("nan")}, UsageError, "found nan and 0.0"),
        ({"warm_up": float("inf")}, UsageError, "found 0.0001 and inf"),
        ({"rounds": 0}, UsageError, "expected 1 to 10000 rounds and 0 to 1000 starts, found 0 and 0"),
        ({"rounds": 10_001}, UsageError, "found 10001 and 0"),
        ({"starts": 1001}, UsageError, "found 2 and 1001"),
        ({"rates": "tpu"}, UsageError, "expected one of orin-nano-4, orin-nano"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_measured(
    bench_bundle: Path, wanted: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bench(BenchRequest(bench_bundle, **{**QUICK, **wanted}))  # type: ignore[arg-type]


def test_what_is_asked_for_by_name_is_never_left_out(bench_bundle: Path) -> None:
    skip_where_tensorrt_runs()
    with pytest.raises(BackendError, match=r"GPU|TensorRT is not installed"):
        bench(BenchRequest(bench_bundle, variants=("fp16-tensorrt",), **QUICK))


def test_a_variant_that_computes_something_else_here_is_not_measured(folder: Path) -> None:
    strict = Bundle.open(folder).manifest.variants[0].model_copy(update={"golden_tolerance": 1e-30})
    change_manifest(folder, variants=(strict,))
    with pytest.raises(BackendError, match=r"none: fp32-cpu: .*computes something else than the exporter did"):
        bench(BenchRequest(folder, **QUICK))
    with pytest.raises(GateError):
        bench(BenchRequest(folder, backends=("cpu",), **QUICK))


def test_a_start_that_fails_is_an_error_that_says_what_it_said(bundle: Bundle) -> None:
    next(bundle.root.rglob("*.onnx")).write_bytes(b"damaged")
    opened = {"bundle": str(bundle.root), "fingerprint": bundle.fingerprint}
    settings = {**opened, "threads": 1, "profile": (1, 1, 8)}
    with pytest.raises(BackendError, match=r"a fresh process to classify one frame, found: .*ArtifactHashError"):
        measure_starts(settings, ["fp32-cpu"], 1)


def test_frames_are_a_cameras_and_the_whole_path_ends_in_labels(bench_bundle: Path) -> None:
    bundle = Bundle.open(bench_bundle)
    frames = make_frames(bundle, 9)
    assert {frame.shape for frame in frames} == {(720, 1280, 3)}
    assert all(frame.flags.c_contiguous for frame in frames)
    with ExitStack() as stack:
        selection = open_variant(bundle, bundle.manifest.variants[0], threads=1)
        stack.enter_context(selection.backend)
        case = make_case(bundle, selection, 9, frames)
        labels = case.calls["whole"]()
    assert len(labels) == 9  # type: ignore[arg-type]
    assert set(labels) <= set(bundle.labels)  # type: ignore[call-overload]


def test_steps_are_told_as_they_are_done(bench_bundle: Path) -> None:
    begun: dict[str, int] = {}
    done: list[str] = []

    def begin(name: str, count: int) -> None:
        begun[name] = count

    bench(BenchRequest(bench_bundle, **QUICK), BenchProgress(begin, lambda: done.append(list(begun)[-1])))
    assert begun == {"opening": 2, "starting": 0, "measuring": 2, "profiling": 1}
    assert done.count("measuring") == 2


@pytest.mark.parametrize(
    ("node", "branch"),
    [
        # as ONNX Runtime 1.31 names them for the digits and the full-size bundle
        ("cnn/conv_1_1/BiasAdd", "cnn"),
        ("fused cnn/dense_1/MatMul/MatMulAddFusion", "cnn"),
        ("image_q", "cnn"),
        ("ReorderOutput_token_8", "cnn"),
        ("ReorderInput", "cnn"),
        ("Transpose_token_277", "cnn"),
        ("rnn/lstm_1/step_07/hidden", "recurrent"),
        ("sequence_q", "recurrent"),
        ("product", "head"),
        ("logits", "head"),
        ("probabilities", "head"),
        # as TensorRT names what it fuses
        ("{ForeignNode[rnn/time_major...rnn/lstm_2/output]}", "recurrent"),
        ("cnn/block1_conv1/Conv2D + PWN(PWN(cnn/block1_act/Sigmoid), cnn/mul)", "cnn"),
        ("__myl_ReshTran_myl0_3", "head"),
        # and what it says of the kernels that it compiles itself
        ("__myl_FcSigMul_myl3_7 [ONNX Layer: rnn/lstm_1/step_07/gates] [ONNX Layer: rnn/lstm_1/hidden]", "recurrent"),
        ("__myl_CastConv_myl0_1 [ONNX Layer: image_q] [ONNX Layer: image_dq]", "cnn"),
        ("__myl_FcMul_myl3_9 [ONNX Layer: product] [ONNX Layer: logits]", "head"),
        ("__myl_FcFcMul [ONNX Layer: cnn/dense/MatMul] [ONNX Layer: rnn/fc/MatMul] [ONNX Layer: rnn/fc]", "recurrent"),
        ("images_of_cnn", "head"),
    ],
)
def test_a_node_belongs_to_the_branch_that_its_name_says(node: str, branch: str) -> None:
    found = branch_shares({node: 1.0, "cnn/a": 3.0, "rnn/b": 3.0, "other": 3.0}, SPEC)
    assert max(found, key=found.__getitem__) == branch


def test_a_change_of_layout_in_a_model_without_convolutions_is_the_recurrent_branchs() -> None:
    assert branch_shares({"Transpose_token_3": 1.0}, SPEC.replace(branches="rnn")) == {"recurrent": 1, "head": 0}


def test_shares_add_up_to_one_and_name_the_branches_that_there_are() -> None:
    nodes = {"cnn/a": 2.0, "cnn/b": 1.0, "rnn/c": 4.0, "logits": 1.0}
    assert branch_shares(nodes, SPEC) == {"cnn": 3 / 8, "recurrent": 4 / 8, "head": 1 / 8}
    assert branch_shares({"cnn/a": 3.0, "logits": 1.0}, SPEC.replace(branches="cnn")) == {"cnn": 0.75, "head": 0.25}


def test_an_engine_that_is_one_node_has_no_shares() -> None:
    """Its time can't be told apart; a small node of both branches is given to one of them."""
    whole = {"{ForeignNode[cnn/conv_1/Conv2D...rnn/lstm_1/output]}": 9.0, "logits": 1.0}
    assert branch_shares(whole, SPEC) == {}
    assert branch_shares({"cnn/a": 0.0}, SPEC) == {}, "nor has one without times"
    fused = {"cnn/a": 4.0, "rnn/b": 5.0, "cnn/dense/MatMul + rnn/fc/MatMul": 1.0}
    assert branch_shares(fused, SPEC) == {"cnn": 0.5, "recurrent": 0.5, "head": 0.0}
