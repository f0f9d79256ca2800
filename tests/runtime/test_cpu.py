from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_edge.runtime import cpu

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


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (XEON, {"avx512_vnni", "amx_int8"}),
        (OLD, set()),
        (ORIN, {"asimddp"}),
        (BIG_LITTLE, set()),
        ("model name: no list of features\n", None),
    ],
)
def test_features_are_those_that_every_core_has(cpuinfo: Path, text: str, features: set[str] | None) -> None:
    cpuinfo.write_text(text)
    assert cpu.cpu_features() == features


def test_a_system_that_does_not_say_lacks_nothing(cpuinfo: Path) -> None:
    assert cpu.cpu_features() is None
    assert not cpu.missing_features(["avx512_vnni"])
    assert "features unknown" in cpu.describe_cpu()


def test_one_of_the_features_named_is_enough(cpuinfo: Path) -> None:
    cpuinfo.write_text(ORIN)
    assert not cpu.missing_features(["avx512_vnni", "asimddp"])
    assert cpu.missing_features(["avx512_vnni", "i8mm"])
    assert not cpu.missing_features([])
    assert "with asimddp" in cpu.describe_cpu()


def test_a_cpu_without_any_says_so(cpuinfo: Path) -> None:
    cpuinfo.write_text(OLD)
    assert cpu.missing_features(cpu.INT8_FEATURES)
    assert "without INT8 dot products" in cpu.describe_cpu()


def test_this_cpu_is_read_without_an_error() -> None:
    features = cpu.cpu_features()
    assert features is None or features <= set(cpu.INT8_FEATURES)
