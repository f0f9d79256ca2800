"""The choice between the forms of the recurrent branch, on graphs that stand in for engines: no GPU here."""

import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.gpu.engine_fixtures import ADA
from support.models.bundles import change_manifest, make_bundle, make_graph, make_weights, store

from hybrid_edge.runtime.backends import fastest_form as forms
from hybrid_edge.runtime.backends.fastest_form import open_fastest_form
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.errors import (
    BackendUnavailableError,
    EngineError,
    EngineMissingError,
    GoldenError,
    Int8EngineError,
)

FORMS = ("fp16-tensorrt", "fp16-tensorrt-unrolled")


class Engine(OnnxRuntimeCpu):
    """A graph on ONNX Runtime in an engine's place: as slow as ``delays`` says, and refused where ``errors`` says."""

    names: ClassVar[dict[str, str]] = {}  # by the hash of a variant's file
    delays: ClassVar[dict[str, float]] = {}
    errors: ClassVar[dict[str, Exception]] = {}
    opened: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []
    said: ClassVar[list[str]] = []

    def __init__(self, model: Path, spec: Any, *, sha256: str, **_: object) -> None:
        self.name = self.names[sha256]
        self.opened.append(self.name)
        if self.name in self.errors:
            raise self.errors[self.name]
        super().__init__(model, spec)

    def _infer(self, tensors: Any) -> Any:
        time.sleep(self.delays.get(self.name, 0))
        return super()._infer(tensors)

    def _release(self) -> None:
        self.closed.append(self.name)


@pytest.fixture(autouse=True)
def _a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(forms, "TensorRtBackend", Engine)
    monkeypatch.setattr(forms, "find_tensorrt", lambda: (Library(None, "tensorrt", "10.3.0"), ADA))
    monkeypatch.setattr(forms, "time_interleaved", _briefly)
    for name, empty in (("names", {}), ("delays", {}), ("errors", {}), ("opened", []), ("closed", []), ("said", [])):
        monkeypatch.setattr(Engine, name, empty)


def _briefly(calls: Any) -> Any:
    from hybrid_edge.runtime.timing import time_interleaved

    return time_interleaved(calls, warm_up_s=0, min_seconds=0, min_rounds=5)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Two forms of one precision: the same function in two files."""
    folder = make_bundle(tmp_path / "bundle", variants=(("fp16", "tensorrt"),))
    found = Bundle.open(folder)
    lstm = found.manifest.variants[0]
    other = store(folder, "artifacts", "onnx", make_graph(found.spec, make_weights(found.spec)) + b"\x32\x01x")
    unrolled = lstm.model_copy(update={"name": FORMS[1], "recurrent": "unrolled", "file": other})
    Engine.names.update({lstm.file.sha256: FORMS[0], other.sha256: FORMS[1]})
    return change_manifest(folder, variants=(lstm, unrolled))


def take(bundle: Bundle, variants: Any = None, options: Any = None) -> str:
    Engine.closed.clear()
    variants, options = variants or bundle.manifest.variants, options or EngineOptions()
    backend, variant = open_fastest_form(bundle, variants, options, Reporter(Engine.said.append))
    assert isinstance(backend, Engine)
    assert variant.name not in Engine.closed
    backend.close()
    return variant.name


@pytest.mark.parametrize("faster", FORMS)
def test_the_faster_form_is_taken_and_the_other_closed(bundle: Bundle, faster: str) -> None:
    slower = next(name for name in FORMS if name != faster)
    Engine.delays[slower] = 0.01
    assert take(bundle) == faster
    assert Engine.closed == [slower, faster]
    assert f"taking {faster}" in Engine.said[-1]
    assert " ms" in Engine.said[-1]


def test_the_choice_is_remembered(bundle: Bundle) -> None:
    Engine.delays[FORMS[0]] = 0.01
    assert take(bundle) == FORMS[1]
    Engine.delays.clear()
    Engine.delays[FORMS[1]] = 0.01
    Engine.opened.clear()
    assert take(bundle) == FORMS[1]
    assert Engine.opened == [FORMS[1]]


def test_a_choice_not_kept_costs_a_line(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "file"))
    assert take(bundle) in FORMS
    assert "engines can't be kept here (Not a directory)" in Engine.said[0]
    assert Engine.said[0].endswith("; the forms are timed again at the next start")
    assert take(bundle) in FORMS


def test_it_is_made_again_for_other_engines_and_where_it_was_damaged(bundle: Bundle, tmp_path: Path) -> None:
    take(bundle)
    take(bundle, options=EngineOptions((1, 2, 4)))
    for path in (tmp_path / "cache" / "engines").glob("*.choice"):
        path.write_bytes(path.read_bytes()[:-3])
    take(bundle)
    assert Engine.opened == [*FORMS] * 3


def test_a_form_that_does_not_build_is_said_and_the_other_taken(bundle: Bundle) -> None:
    Engine.errors[FORMS[0]] = EngineError("no tactic")
    assert take(bundle) == FORMS[1]
    assert Engine.said == ["passed over fp16-tensorrt: no tactic"]


def test_a_form_that_computes_something_else_is_said_and_closed_and_the_other_taken(bundle: Bundle) -> None:
    strict = [
        item.model_copy(update={"golden_tolerance": 1e-30}) if item.name == FORMS[1] else item
        for item in bundle.manifest.variants
    ]
    assert take(bundle, strict) == FORMS[0]
    assert Engine.said[0].startswith(f"passed over {FORMS[1]}: ONNX Runtime")
    assert Engine.closed == [FORMS[1], FORMS[0]]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((EngineError("a"), EngineError("b")), EngineError),
        ((Int8EngineError("a"), Int8EngineError("b")), Int8EngineError),
        ((EngineError("a"), GoldenError("b")), GoldenError),
    ],
)
def test_where_none_is_left_every_reason_is_given(
    bundle: Bundle, errors: tuple[Exception, Exception], expected: type[Exception]
) -> None:
    for name, error in zip(FORMS, errors, strict=True):
        Engine.errors[name] = error
    with pytest.raises(expected, match="fp16-tensorrt: a; fp16-tensorrt-unrolled: b"):
        take(bundle)


@pytest.mark.parametrize("first", FORMS)
def test_a_tensorrt_that_does_not_start_is_no_fault_of_the_form(bundle: Bundle, first: str) -> None:
    Engine.errors[first] = BackendUnavailableError("TensorRT does not start here")
    with pytest.raises(BackendUnavailableError, match=r"^TensorRT does not start here$"):
        take(bundle)
    assert Engine.said == []
    assert Engine.opened == list(FORMS[: FORMS.index(first) + 1])
    assert Engine.closed == Engine.opened[:-1]


def test_a_single_form_is_opened_without_timing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "time_interleaved", lambda _: pytest.fail("timed"))
    assert take(bundle, variants=bundle.manifest.variants[:1]) == FORMS[0]


def test_forms_that_may_not_be_built_are_refused_with_the_command(bundle: Bundle) -> None:
    for name in FORMS:
        Engine.errors[name] = EngineMissingError("expected an engine, found none")
    options = EngineOptions((1, 2, 4), workspace=2**28, build=False)
    with pytest.raises(EngineMissingError) as caught:
        take(bundle, options=options)
    command = f"hybrid-export --engine-only {bundle.root} --profile 1,2,4 --workspace 256"
    assert str(caught.value) == f"expected an engine, found none; {command} builds it, or leave out --no-build"


def test_the_form_that_is_there_is_taken_but_not_for_good(bundle: Bundle) -> None:
    Engine.errors[FORMS[0]] = EngineMissingError("none yet")
    assert take(bundle) == FORMS[1]
    assert Engine.said[0].startswith(f"passed over {FORMS[0]}: none yet; hybrid-export --engine-only")
    Engine.errors.clear()
    Engine.delays[FORMS[1]] = 0.01
    assert take(bundle) == FORMS[0]
