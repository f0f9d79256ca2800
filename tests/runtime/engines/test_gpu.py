import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.gpu.engine_fixtures import ADA, ORIN, another_users

from hybrid_edge.runtime.engines import gpu
from hybrid_edge.runtime.engines.engine_options import EngineOptions, parse_profile
from hybrid_edge.runtime.engines.gpu import MIB, Gpu, available_memory, check_memory, disk_shortage
from hybrid_edge.runtime.errors import EngineError, UsageError

GRAPH = 400 * MIB


@pytest.fixture
def meminfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the system says of its memory: 8 GiB free, and no swap."""
    path = tmp_path / "meminfo"
    path.write_text(f"MemTotal: 16000000 kB\nMemAvailable:  {8 * 2**20} kB\nSwapFree: 0 kB\nHugePages_Total:  0\n")
    monkeypatch.setattr(gpu, "MEMINFO", path)
    return path


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    facts = SimpleNamespace(free=2**40)
    monkeypatch.setattr("shutil.disk_usage", lambda _: facts)
    return facts


def test_the_systems_free_memory_is_what_it_can_give(meminfo: Path) -> None:
    assert available_memory(7) == available_memory(7, swap=True) == 8 * 2**30
    meminfo.write_text("MemAvailable: 1024 kB\nSwapFree: 2048 kB\n")
    assert (available_memory(7), available_memory(7, swap=True)) == (MIB, 3 * MIB)


@pytest.mark.parametrize("text", ["", "MemFree: 3 kB\n", "MemAvailable: much kB\n"])
def test_a_system_that_does_not_say_gives_what_was_assumed(meminfo: Path, text: str) -> None:
    meminfo.write_text(text)
    assert available_memory(7) == 7
    meminfo.unlink()
    assert available_memory(7) == 7


def test_a_disk_that_is_nearly_full_is_said_before_the_minutes_begin(disk: SimpleNamespace, tmp_path: Path) -> None:
    disk.free = 864 * MIB
    assert disk_shortage(GRAPH, tmp_path) is None
    disk.free -= 1
    found = disk_shortage(GRAPH, tmp_path)
    assert f"an engine: expected at least 864 MiB on disk to be free, found 863 MiB in {tmp_path}" in found
    assert found.endswith("HYBRID_EDGE_CACHE names another cache folder")


def test_a_folder_that_can_not_be_written_is_said_before_the_minutes_begin(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "engines can't be kept here (Not a directory)" in str(disk_shortage(1, tmp_path / "file" / "engines"))
    (tmp_path / "engines").mkdir()
    with another_users(tmp_path / "engines"):
        assert "engines can't be kept here (no right to write)" in str(disk_shortage(1, tmp_path / "engines"))


def test_too_little_memory_is_said_before_the_system_runs_out_of_it(meminfo: Path) -> None:
    meminfo.write_text(f"MemAvailable: {1599 * 1024} kB\nSwapFree: 0 kB\n")
    with pytest.raises(EngineError, match=r"at least 1600 MiB of memory to be free, found 1599 MiB swap included: end"):
        check_memory(GRAPH, ORIN)
    meminfo.write_text(f"MemAvailable: {1599 * 1024} kB\nSwapFree: 1024 kB\n")
    check_memory(GRAPH, ORIN)


def test_a_gpu_that_others_have_filled_is_named(meminfo: Path) -> None:
    full = dataclasses.replace(ADA, free_memory=799 * MIB)
    with pytest.raises(
        EngineError, match=r"800 MiB of the GPU's memory to be free, found 799 MiB on NVIDIA.*nvidia-smi"
    ):
        check_memory(GRAPH, full)
    check_memory(GRAPH, dataclasses.replace(full, integrated=True))
    check_memory(GRAPH, ADA)


KINDS = (((8, 9), False, False), ((12, 0), False, False), ((8, 7), True, True), ((8, 7), False, True))


@pytest.mark.parametrize(("capability", "integrated", "jetson"), [*KINDS, ((11, 0), True, True)])
def test_a_jetson_is_known_by_its_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], integrated: bool, jetson: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    gpu = Gpu("GPU", capability, integrated, 2**33, 2**32)
    assert gpu.is_jetson is jetson
    assert gpu.architecture == f"sm{capability[0]}{capability[1]}"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert gpu.is_jetson


def test_a_profile_is_three_batch_sizes() -> None:
    assert parse_profile("1,4,16") == (1, 4, 16)
    assert EngineOptions().profile == (1, 1, 8)


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4", "1,-2,3", "1,x,3", "1.0,2,3"])
def test_anything_else_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="MIN,OPT,MAX such as 1,1,8"):
        parse_profile(text)


@pytest.mark.parametrize("profile", [(0, 1, 8), (2, 1, 8), (1, 9, 8)])
def test_the_sizes_must_ascend_from_1(profile: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="1 <= MIN <= OPT <= MAX"):
        EngineOptions(profile)


def test_a_workspace_that_no_kernel_fits_into_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="at least 64 MiB, found 63 MiB"):
        EngineOptions(workspace=63 * 2**20)


def test_a_desktop_gpu_gives_half_of_its_memory() -> None:
    assert EngineOptions().workspace_on(ADA) == 6 * 2**30


def test_a_jetson_gives_a_quarter_of_what_the_system_has_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 7800000 kB\nMemFree: 100000 kB\nMemAvailable:    4194304 kB\n")
    monkeypatch.setattr(gpu, "MEMINFO", meminfo)
    assert EngineOptions().workspace_on(ORIN) == 2**30
    meminfo.write_text("MemAvailable: 1000 kB\n")
    assert EngineOptions().workspace_on(ORIN) == 64 * 2**20  # less would build nothing at all
    meminfo.unlink()
    assert EngineOptions().workspace_on(ORIN) == 3 * 2**30 // 4


def test_what_was_asked_for_is_what_is_taken() -> None:
    asked = EngineOptions(workspace=2**28)
    assert [asked.workspace_on(gpu) for gpu in (ADA, ORIN, None)] == [2**28] * 3
    assert EngineOptions().workspace_on(None) is None


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (EngineOptions(), ""),
        (EngineOptions(build=False), ""),
        (EngineOptions((1, 2, 4)), " --profile 1,2,4"),
        (EngineOptions(workspace=2**28), " --workspace 256"),
        (EngineOptions((2, 2, 2), 2**30), " --profile 2,2,2 --workspace 1024"),
    ],
)
def test_options_are_written_as_a_command_takes_them(options: EngineOptions, arguments: str) -> None:
    assert options.arguments == arguments
