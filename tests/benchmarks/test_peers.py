import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.models.bundles import LABELS, SPEC, make_bundle, sample_image

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from batch_curve import recurrent_bytes
from peers.artifacts import Maker
from peers.catalogue import REFERENCE, Peer, catalogue, plain_graph_of
from peers.compare import compare
from peers.environments import environment_python
from peers.errors import PeerError
from peers.images import Inputs, write_inputs
from peers.measure import Answers, answer, judge
from peers.page import write_page
from peers.process import Worker, pick_cpus
from training_loop import SIZES, _phase, title

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train.training_settings import PHASES

CPUS = pick_cpus(1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("peers") / "bundle")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images in class folders; the classes mean nothing."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(9):
        (folder / LABELS[number % 3]).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / LABELS[number % 3] / f"{number}.png"), sample_image(number))
    return folder


@pytest.fixture(scope="module")
def inputs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(images, SPEC, tmp_path_factory.mktemp("inputs") / "tensors", 100, "--images")


@pytest.fixture(scope="module")
def worker(bundle: Path, inputs: Inputs) -> Iterator[Worker]:
    peer = Peer("ours", "FP32", "ours", {"bundle": str(bundle), "backend": "cpu", "precision": "fp32"})
    with Worker(peer, sys.executable, inputs.folder, CPUS) as opened:
        yield opened


def test_a_worker_gives_the_labels_that_the_classifier_gives(
    worker: Worker, bundle: Path, images: Path, inputs: Inputs, tmp_path: Path
) -> None:
    labels = answer(worker, inputs, tmp_path).labels
    with Classifier.load(bundle, check=False) as classifier:
        expected = {path: classifier.predict([path])[0].label for path in images.rglob("*.png")}
    assert len(labels) == len(inputs) == 9
    assert sorted(LABELS[label] for label in labels) == sorted(expected.values())
    assert [LABELS[number] for number in sorted(inputs.truth)] == sorted(path.parent.name for path in expected)


def test_a_worker_times_as_many_runs_as_it_is_asked_for_and_uses_no_cpu_while_it_waits(worker: Worker) -> None:
    assert len(worker.ask("time", batch=2, untimed=1, runs=3, at_least_s=0)["seconds"]) == 3
    assert sum(worker.ask("time", batch=2, untimed=1, runs=1, at_least_s=0.02)["seconds"]) >= 0.02
    time.sleep(0.2)  # thread pools spin for some milliseconds
    before = worker.cpu_s
    time.sleep(0.5)
    assert worker.cpu_s - before <= 0.05


def test_a_worker_that_can_not_open_its_engine_says_why(inputs: Inputs, tmp_path: Path) -> None:
    peer = Peer("broken", "FP32", "onnxruntime", {"graph": str(tmp_path / "absent.onnx")})
    with pytest.raises(PeerError, match=r"ended with exit code 1: .*absent\.onnx"):
        Worker(peer, sys.executable, inputs.folder, CPUS)


def test_answers_are_kept_until_something_they_depend_on_changes(
    worker: Worker, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answer(worker, inputs, tmp_path)
    monkeypatch.setattr(worker, "ask", lambda *_, **__: pytest.fail("asked again"))
    assert (answer(worker, inputs, tmp_path).labels == first.labels).all()
    other = Inputs(inputs.folder, inputs.truth, "0" * 64)
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        answer(worker, other, tmp_path)


def test_answers_of_other_weights_beside_the_same_graph_are_asked_for(
    worker: Worker, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, weights = tmp_path / "graph.xml", tmp_path / "graph.bin"
    graph.write_text("<net/>")
    weights.write_bytes(b"first")
    monkeypatch.setattr(worker, "peer", replace(worker.peer, options={"graph": str(graph)}))
    answer(worker, inputs, tmp_path / "answers")
    monkeypatch.setattr(worker, "ask", lambda *_, **__: pytest.fail("asked again"))
    answer(worker, inputs, tmp_path / "answers")
    weights.write_bytes(b"other")
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        answer(worker, inputs, tmp_path / "answers")


def test_the_bundles_variants_for_this_cpu_are_among_the_peers(tmp_path: Path) -> None:
    variants = [("fp32", "cpu"), ("int8", "cpu"), ("fp16", "tensorrt"), ("fp16", "cuda")]
    opened = Bundle.open(make_bundle(tmp_path / "bundle", variants=variants))  # type: ignore[arg-type]
    peers = catalogue(tmp_path / "model.keras", opened)
    assert [peer.name for peer in peers if peer.ours] == ["hybrid-edge FP32", "hybrid-edge INT8"]
    assert len({peer.name for peer in peers}) == len(peers)
    assert plain_graph_of(opened).suffix == ".onnx"


def test_the_gate_and_the_comparison_leave_out_who_lost_accuracy() -> None:
    truth = np.arange(200) % 10
    wrong = np.where(np.arange(200) < 2, 11, truth)
    inputs = Inputs(Path(), tuple(truth.tolist()), "")
    answers = {REFERENCE: truth, "good": truth, "fast": wrong, "ours": np.where(np.arange(200) < 1, 11, truth)}
    judged = judge({name: Answers(labels, None) for name, labels in answers.items()}, inputs)
    assert [judged[name]["passed"] for name in answers] == [True, True, False, True]
    assert judged["fast"]["agreement"] == pytest.approx(0.99)
    assert judged["ours"]["accuracy"]["drop"] == pytest.approx(0.005)
    peers = {name: Peer(name, "FP32", "ours" if name == "ours" else "other") for name in answers}
    times: dict[str, list[float]] = {REFERENCE: [7, 8, 9], "good": [4, 4, 5], "fast": [1, 1, 1], "ours": [2, 2, 2]}
    found = {row["question"]: row for row in compare(peers, {1: times}, judged)}
    assert found["the fastest peer"]["peer"] == "good"
    assert found["the fastest peer"]["ratio"] == 2
    assert found[REFERENCE]["ratio"] == 4


def test_what_a_tool_could_not_make_is_not_tried_again(tmp_path: Path, inputs: Inputs) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"no graph")
    maker = Maker(graph, graph, inputs.folder, inputs.digest, (1,), tmp_path / "made")
    with pytest.raises(PeerError, match="nncf's converter failed") as first:
        maker.make("nncf_int8", sys.executable)  # this interpreter has no NNCF
    (failed,) = (tmp_path / "made").iterdir()
    assert failed.suffix == ".failed"
    with pytest.raises(PeerError) as second:
        maker.make("nncf_int8", "/nonexistent/python")
    assert str(second.value) == str(first.value)


def test_a_tool_ended_by_a_signal_is_run_again_and_so_is_one_of_another_version(tmp_path: Path, inputs: Inputs) -> None:
    """In the place of an environment's interpreter, one that tells a version, and dies at the first conversion."""
    python, count = tmp_path / "python", tmp_path / "count"
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"no graph")
    maker = Maker(graph, graph, inputs.folder, inputs.digest, (1,), tmp_path / "made")

    def write(version: str, end: str) -> None:
        script = f'#!/bin/sh\n[ "$1" = -c ] && echo {version} && exit\necho >> {count}\necho {version} >&2\n{end}\n'
        python.write_text(script)
        python.chmod(0o755)

    def tried() -> int:
        with pytest.raises(PeerError):
            maker.make("nncf_int8", os.fspath(python))
        return len(count.read_text().splitlines())

    write("1", "kill -9 $$")
    assert [tried(), tried()] == [1, 2]
    write("1", "exit 1")
    assert [tried(), tried()] == [3, 3]
    write("2", "exit 1")
    assert tried() == 4


@pytest.mark.parametrize(
    ("keras", "stand_in", "told"),
    [(0.9, False, None), (1.0, False, "Keras's own labels"), (0.99, True, "the stand-in's own labels")],
)
def test_the_page_tells_agreement_from_accuracy(tmp_path: Path, keras: float, stand_in: bool, told: str | None) -> None:
    time = {"p10": 0.01, "median": 0.02, "p90": 0.03}
    row = {"name": REFERENCE, "precision": "FP32", "ours": False, "versions": {"keras": "3"}, "peak_mib": None}
    row |= {"waiting_share": 0.0, "agreement": 1.0, "accuracy": {"keras": keras, "variant": keras}, "passed": True}
    setting = {"model": "small", "batches": [1], "rounds": 7, "runs": "3", "threads": 2, "images": 9}
    content = {
        "make": "make bench",
        "machine": {"cpu": "CPU", "cores": 2, "memory_gib": 1, "system": "Linux", "load_at_start": 0},
        "setting": {**setting, "stand_in": stand_in},
        "peers": [{**row, "times": {"1": time}}],
        "comparisons": [],
        "skipped": {},
    }
    (tmp_path / "peers.json").write_text(json.dumps(content))
    page = " ".join(write_page(tmp_path, tmp_path / "docs").read_text().split())
    assert ("accuracy here is agreement with Keras" in page) == (told is not None)
    assert told is None or f"The images' classes are {told}" in page


def test_an_environment_that_was_named_is_taken_and_one_that_can_not_be_installed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment_python("litert", tmp_path, {"litert": "/some/python"}) == "/some/python"
    assert environment_python("", tmp_path, {}) == sys.executable
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(PeerError, match=r"openvino nncf can't be installed here: .*nonexistent"):
        environment_python("openvino", tmp_path, {})


def test_the_recurrent_weights_are_read_at_each_timestep_but_the_first() -> None:
    spec = preset("xception-lstm")
    assert recurrent_bytes(spec, 1) == 2 * 4 * 2048 * 2048 * 22


def test_each_case_trains_as_its_presets_second_phase_and_says_what_is_not_as_usual() -> None:
    for name, chosen in (("reduced", "xception-lstm"), ("digits", "digits")):
        kept = {"steps", "epochs", "batch_size"}
        assert _phase(SIZES[name]).model_dump(exclude=kept) == PHASES[chosen][1].model_dump(exclude=kept)
    assert title("digits", SIZES["digits"]).startswith("digits --no-augment: a step of 64 images at 28x28")
    assert title("reduced", SIZES["reduced"]).startswith("reduced: ")
