from __future__ import annotations

from pathlib import Path

import pytest
from support.gpu.engine_fixtures import ADA, ORIN

from hybrid_edge.runtime.engines import gpu
from hybrid_edge.runtime.engines.engine_options import EngineOptions, parse_profile
from hybrid_edge.runtime.errors import UsageError


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
