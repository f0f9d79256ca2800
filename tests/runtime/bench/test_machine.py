from __future__ import annotations

from pathlib import Path

import pytest
from hybrid_edge.runtime.bench.report import Clocks

from hybrid_edge.runtime.bench import machine as module
from hybrid_edge.runtime.bench.machine import busy_before, read_clocks, record_machine, slowed_down


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """/proc and /sys of a Jetson: no name in cpuinfo, a scaling driver, a model."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd asimddp\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1728000\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_jetsons_record_has_its_model_governor_clocks_and_release(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "power_mode", lambda: "25W")
    found = record_machine(read_clocks(board), board)
    assert found.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (found.governor, found.power_mode) == ("schedutil", "25W")
    assert found.before.cpu_mhz == 1228.8
    assert found.versions["Jetson Linux"] == "R36 (release), REVISION: 4.4"
    assert found.title.startswith("NVIDIA Jetson Orin Nano")
    assert found.title.endswith("25W")


def test_the_cpus_clock_is_read_before_nvidia_smi_lets_it_rest(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rest() -> dict[str, str]:
        for path in board.rglob("scaling_cur_freq"):
            path.write_text("400000\n")
        return {"clocks.sm": "1980"}

    monkeypatch.setattr(module, "query_gpu", rest)
    assert (read_clocks(board).cpu_mhz, read_clocks(board).gpu_mhz) == (1228.8, 1980)


def test_a_pcs_record_has_its_cpu_and_the_versions_that_matter(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: AMD EPYC 9B45\ncpu MHz\t\t: 2000.5\ncpu MHz\t\t: 3000.5\n")
    found = record_machine(read_clocks(tmp_path), tmp_path)
    assert (found.cpu, found.before.cpu_mhz) == ("AMD EPYC 9B45", 2500.5)
    assert {"python", "numpy", "onnxruntime", "hybrid-edge"} <= found.versions.keys()
    assert found.memory_gib > 0


def test_a_machine_that_worked_already_is_told(tmp_path: Path) -> None:
    quiet = record_machine(Clocks(load=0.3), tmp_path)
    assert busy_before(quiet) is None
    assert "load 3.0" in str(busy_before(quiet.model_copy(update={"before": Clocks(load=3.0)})))


def test_clocks_that_fell_are_told_and_unknown_ones_are_not() -> None:
    assert slowed_down(Clocks(load=0, cpu_mhz=2000), Clocks(load=0, cpu_mhz=1900)) is None
    assert slowed_down(Clocks(load=0), Clocks(load=0, cpu_mhz=1900)) is None
    told = slowed_down(Clocks(load=0, cpu_mhz=2000, gpu_mhz=1020), Clocks(load=0, cpu_mhz=2000, gpu_mhz=612))
    assert told == "clocks fell while it was measured: GPU 1020 to 612 MHz"
