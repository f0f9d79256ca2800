import shutil
import tarfile
from pathlib import Path

import pytest
from support.gpu.engine_fixtures import ADA, Builds
from support.models.bundles import make_bundle

from hybrid_edge.export.bundle import engine_files as engines
from hybrid_edge.export.bundle.engine_files import build_engines
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.runtime.errors import BackendUnavailableError, BundleError, EngineError, Int8EngineError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    return make_bundle(tmp_path / "bundle", variants=(("fp32", "tensorrt"), ("fp16", "tensorrt"), ("fp32", "cpu")))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None:
        raise BackendUnavailableError("TensorRT is not installed here; pip install something")

    monkeypatch.setattr(engines, "find_tensorrt", nothing)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Builds:
    """A machine whose TensorRT is TensorRT-RTX, building for a GPU that is not there."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'hybrid-edge[rtx]'")
    found = Builds()
    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", found)
    monkeypatch.setattr(engines, "find_tensorrt", lambda: (find_library("rtx"), ADA))
    return found


@pytest.mark.usefixtures("no_gpu")
def test_without_a_builder_one_line_says_what_to_run_on_the_device(folder: Path) -> None:
    found = build_engines(folder)
    assert found.local == found.ahead == ()
    assert "\n" not in found.advice
    commands = ("hybrid-infer --bundle bundle", "hybrid-export --engine-only bundle")
    shapes = ("--minShapes=image:1x12x12x3,sequence:1x6x24", "--maxShapes=image:8x12x12x3,sequence:8x6x24")
    for said in ("TensorRT is not installed here", *commands, *shapes, next(folder.glob("artifacts/*.onnx")).name):
        assert said in found.advice


def test_every_tensorrt_variant_is_built_for_this_machine_once(folder: Path, builds: Builds) -> None:
    first, second = build_engines(folder), build_engines(folder)
    assert first.advice == ""
    assert [item.variant for item in first.local] == ["fp32-tensorrt", "fp16-tensorrt"]
    # both name one file here: the second finds the first's engine
    assert {item.path for item in (*first.local, *second.local)} == {first.local[0].path}
    assert len(builds.made) == 1
    assert first.local[0].path.read_bytes() == builds.made[0].engine
    assert first.local[0].size == len(builds.made[0].engine)


@pytest.mark.usefixtures("no_gpu")
def test_desktop_engines_lie_beside_the_bundle_and_leave_it_alone(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    before = sorted(folder.rglob("*"))
    found = build_engines(folder, ("sm89",))
    assert [item.path.parent for item in found.ahead] == [folder.parent / "engines"] * 2
    assert sorted(folder.rglob("*")) == before
    assert found.advice


@pytest.mark.usefixtures("no_gpu")
def test_a_tar_has_them_beside_it(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    (tmp_path / "packed").mkdir()
    tar = tmp_path / "packed" / "bundle.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(folder, ".")
    shutil.rmtree(folder)
    assert build_engines(tar, ("sm89",)).ahead[0].path.parent == tmp_path / "packed" / "engines"


@pytest.mark.parametrize("kind", [EngineError, Int8EngineError])
def test_one_that_does_not_build_is_told_after_the_others(
    folder: Path, builds: Builds, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    real = engines.prepare_engine
    prepared: list[bool] = []

    def prepare_engine(*arguments: object) -> object:
        prepared.append(True)
        if len(prepared) == 1:
            raise kind("does not build")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engines, "prepare_engine", prepare_engine)
    with pytest.raises(kind, match="does not build"):
        build_engines(folder)
    assert len(prepared) == 2
    assert len(builds.made) == 1


def test_an_engine_that_can_not_be_kept_is_an_error_of_who_only_builds(
    folder: Path, builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"can't be kept here .*HYBRID_EDGE_CACHE names another"):
        build_engines(folder)
    assert builds.made == []


def test_a_tensorrt_that_does_not_start_is_none(folder: Path, builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise BackendUnavailableError("TensorRT 11.4.1 does not start here: error: 35; the driver is older")

    monkeypatch.setattr("hybrid_edge.runtime.engines.build.build_engine", fails)
    found = build_engines(folder)
    assert found.local == ()
    assert "TensorRT 11.4.1 does not start here: error: 35" in found.advice


def test_a_bundle_without_a_tensorrt_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a variant for tensorrt, found none"):
        build_engines(make_bundle(tmp_path / "bundle"))
