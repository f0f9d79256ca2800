from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from hybrid_edge.runtime.engines import library
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Library, check_library, find_library, installed
from hybrid_edge.runtime.errors import BackendUnavailableError


def flags(**values: int) -> SimpleNamespace:
    return SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**values))


@pytest.mark.parametrize(
    ("module", "version", "bits"),
    [
        (flags(EXPLICIT_BATCH=0, STRONGLY_TYPED=1), "10.3.0", 0b11),
        (flags(STRONGLY_TYPED=0), "11.0.0", 0b1),
    ],
)
def test_networks_are_strongly_typed_however_a_version_numbers_its_flags(
    module: SimpleNamespace, version: str, bits: int
) -> None:
    assert check_library(Library(module, "tensorrt", version)).network_flags == bits


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "10.2.0.19"])
def test_a_tensorrt_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(
        BackendUnavailableError, match=rf"expected TensorRT 10.3 or later, found {version}.*JetPack 6.1"
    ):
        check_library(Library(flags(EXPLICIT_BATCH=0, STRONGLY_TYPED=1), "tensorrt", version))


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1", "11.4.1"])
def test_a_supported_tensorrt_is_taken(version: str) -> None:
    assert check_library(Library(flags(STRONGLY_TYPED=0), "tensorrt", version)).label == f"TensorRT {version}"


@pytest.mark.parametrize(
    ("kind", "hint"), [("tensorrt", r"hybrid-edge\[tensorrt\].*JetPack"), ("rtx", r"hybrid-edge\[rtx\]")]
)
def test_a_missing_library_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, kind: library.LibraryKind, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, library.MODULE_NAMES[kind], None)
    find_library.cache_clear()
    with pytest.raises(BackendUnavailableError, match=hint):
        find_library(kind)
    find_library.cache_clear()


def test_the_installed_rtx_is_what_it_says(rtx: Library) -> None:
    assert installed("rtx")
    assert rtx.label == f"TensorRT-RTX {rtx.module.__version__}"
    assert rtx.network_flags == 1 << int(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert not rtx.has_timing_cache


@pytest.mark.parametrize(
    ("capability", "integrated", "jetson"),
    [
        ((8, 9), False, False),
        ((12, 0), False, False),
        ((8, 7), True, True),
        ((8, 7), False, True),
        ((11, 0), True, True),
    ],
)
def test_a_jetson_is_known_by_its_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], integrated: bool, jetson: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    gpu = Gpu("GPU", capability, integrated, 2**33, 2**32)
    assert gpu.is_jetson is jetson
    assert gpu.architecture == f"sm{capability[0]}{capability[1]}"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert gpu.is_jetson
