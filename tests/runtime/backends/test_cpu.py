from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_edge.runtime.backends import cpu

XEON = "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nprocessor\t: 1\nflags\t\t: avx512_vnni amx_int8\n"
OLD = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimddp crc32\nCPU part\t: 0xd42\n"
BIG_LITTLE = "processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 4\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(cpu, "CPUINFO", path)
    monkeypatch.setattr(cpu, "cpu_features", cpu.cpu_features.__wrapped__)
    return path


@pytest.fixture(params=["x86_64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the process is compiled for, whatever ``/proc/cpuinfo`` shows."""
    monkeypatch.setattr(cpu.platform, "machine", lambda: request.param)
    return str(request.param)


@pytest.mark.parametrize(
    ("machine", "text", "features"),
    [
        ("x86_64", XEON, {"avx512_vnni", "amx_int8"}),
        ("x86_64", OLD, set()),
        ("aarch64", ORIN, {"asimddp"}),
        ("aarch64", BIG_LITTLE, set()),
        ("aarch64", XEON, None),
        ("x86_64", "model name: no list of features\n", None),
    ],
    indirect=["machine"],
)
def test_features_are_those_that_every_core_of_this_machine_has(
    cpuinfo: Path, machine: str, text: str, features: set[str] | None
) -> None:
    cpuinfo.write_text(text)
    assert cpu.cpu_features() == features


def test_a_system_that_does_not_say_lacks_nothing(cpuinfo: Path) -> None:
    assert cpu.cpu_features() is None
    assert not cpu.missing_features(["avx512_vnni"])
    assert "features unknown" in cpu.describe_cpu()


def test_one_of_the_features_named_is_enough(cpuinfo: Path, machine: str) -> None:
    cpuinfo.write_text(XEON)
    assert not cpu.missing_features(["avx512_vnni", "asimddp"])
    assert cpu.missing_features(["avx_vnni", "i8mm"])
    assert not cpu.missing_features([])
    assert "with amx_int8, avx512_vnni" in cpu.describe_cpu()


@pytest.mark.parametrize("machine", ["aarch64", "arm64"], indirect=True)
@pytest.mark.parametrize("text", [ORIN, BIG_LITTLE, OLD])
def test_an_arm_lacks_nothing_as_nothing_saturates_there(cpuinfo: Path, machine: str, text: str) -> None:
    cpuinfo.write_text(text)
    assert not cpu.missing_features(["avx512_vnni", "i8mm"])


def test_a_cpu_without_any_says_so(cpuinfo: Path, machine: str) -> None:
    cpuinfo.write_text(OLD)
    assert cpu.missing_features(cpu.INT8_FEATURES)
    assert "without INT8 dot products" in cpu.describe_cpu()


def test_this_cpu_is_read_without_an_error() -> None:
    features = cpu.cpu_features()
    assert features is None or features <= set(cpu.INT8_FEATURES)
