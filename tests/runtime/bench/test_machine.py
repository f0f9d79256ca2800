import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.bench import machine as module
from hybrid_edge.runtime.bench.bench_report import Clocks
from hybrid_edge.runtime.bench.machine import (
    board_watts,
    busy_before,
    command_line,
    measure_power,
    query_gpu,
    read_clocks,
    record_machine,
    slowed_down,
    without_folders,
)
from hybrid_edge.runtime.bench.probe import better_rates, data_caches, probe, product_graph
from hybrid_edge.runtime.process import peak_mib, usable_cpus
from hybrid_edge.runtime.roofline import Rates

Tools = Callable[[str, str], None]


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


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Programs of these names, each a shell script, in the place of NVIDIA's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)

    return add


def test_a_jetsons_record_has_its_model_governor_clocks_power_mode_and_release(board: Path, tools: Tools) -> None:
    tools("nvpmodel", "printf 'NVPM VERB: x\\nNV Power Mode: 25W\\n2\\n'")
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


# the ends of lines of tegrastats as people recorded them on their boards
ORIN_NANO = "gpu@53.343C tj@53.968C VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW"
AGX_ORIN = (
    "CV0@-256C CPU@42.593C Tboard@32C VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
XAVIER_NX = "GPU@43C PMIC@100C CPU@43.5C thermal@42.55C VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
AGX_XAVIER = (
    "EMC_FREQ 0%@665 GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% GPU@37.5C PMIC@100C thermal@36.9C GPU 0/0 CPU 311/311 "
    "SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
NANO = "PLL@39C CPU@40.5C GPU@41C AO@46C thermal@41C POM_5V_IN 900/943 POM_5V_GPU 0/0 POM_5V_CPU 123/123"
THOR = "tj@31.218C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 5535mW/5535mW VIN_SYS_5V0 5040mW/5040mW VIN 16802mW/16802mW"
THOR_JETPACK_7_2 = "VDD_GPU 37528mW/37528mW/37528mW VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (ORIN_NANO, 12.479),
        (AGX_ORIN, 2.399 + 0.4 + 4.032),  # VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0
        (XAVIER_NX, 4.067),
        (AGX_XAVIER, (0 + 311 + 932 + 0 + 621 + 1482) / 1000),
        (NANO, 0.9),
        (THOR, 16.802),
        (THOR_JETPACK_7_2, 87.426),
        ("RAM 613/3964MB (lfb 634x4MB) CPU [2%@102] VDD_SOC 1353/1353", None),
        ("", None),
    ],
)
def test_the_power_of_the_whole_module_is_found_on_each_board(line: str, watts: float | None) -> None:
    assert board_watts(line) == (None if watts is None else pytest.approx(watts))


def test_nvidia_smi_answers_what_it_knows_and_the_rest_is_left_out(tools: Tools) -> None:
    tools(
        "nvidia-smi",
        'echo "NVIDIA H200, 570.86, 1980, 3201, 34, [N/A]"; echo "NVIDIA H200, 570.86, 345, 3201, 30, 700"',
    )
    assert query_gpu() == {
        "name": "NVIDIA H200",
        "driver_version": "570.86",
        "clocks.sm": "1980",
        "clocks.mem": "3201",
        "temperature.gpu": "34",
    }


@pytest.mark.parametrize("script", ["exit 9", "true", "echo 'NVIDIA-SMI has failed'; exit 1"])
def test_an_nvidia_smi_without_a_driver_says_nothing(tools: Tools, script: str) -> None:
    tools("nvidia-smi", script)
    assert query_gpu() == {}


def test_power_is_the_modules_while_a_call_is_repeated(tools: Tools) -> None:
    tools("tegrastats", f"while true; do echo '{ORIN_NANO}'; sleep 0.02; done")
    start = time.monotonic()
    watts, seconds = measure_power(lambda: time.sleep(0.1), 0.35)
    assert watts == pytest.approx(12.479)
    assert 0.1 <= seconds <= time.monotonic() - start  # a sleep of 0.1 s, or longer


def test_a_call_that_fails_does_not_leave_tegrastats_running(tools: Tools, tmp_path: Path) -> None:
    tools("tegrastats", f"trap 'touch {tmp_path}/ended; exit' TERM; while true; do sleep 0.02; done")
    calls = iter((None, None))  # one while the sensors settle, one while tegrastats runs
    with pytest.raises(StopIteration):
        measure_power(lambda: (next(calls), time.sleep(0.6)), 1)
    assert (tmp_path / "ended").exists()


def test_a_machine_without_tegrastats_has_no_power(tools: Tools) -> None:
    assert measure_power(lambda: pytest.fail("called")) == (None, 0)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/me/bundle/a.onnx: expected a graph", "a.onnx: expected a graph"),
        ("[Errno 2] No such file: '/none/bin/python'", "[Errno 2] No such file: 'python'"),
        ("failed (/usr/lib/libcuda.so.1) in /srv/x/infer.so.10", "failed (libcuda.so.1) in infer.so.10"),
        ("given openvino=/opt/ov/bin/python", "given openvino=python"),
        ("/home/me/folder/", "folder"),
        ("120 images/s, 1/2 and / or p50 / p90, runs/latest, ./a/b, ../c/d", None),
        ("pip: https://packages.example/numpy is away", None),
    ],
)
def test_absolute_paths_become_names_and_nothing_else_changes(text: str, kept: str | None) -> None:
    assert without_folders(text) == (text if kept is None else kept)


def test_a_command_keeps_its_words() -> None:
    words = ["/venv/bin/hybrid-bench", "runs/latest", "--json=/home/me/a b.json", "--csv", "/home/me/my dir/a.csv", "/"]
    assert command_line(words) == "hybrid-bench runs/latest '--json=a b.json' --csv a.csv /"


def test_the_probe_measures_every_rate_of_this_machine() -> None:
    *nearer, cache = data_caches(usable_cpus()) or (None,)
    rates = probe(0.01)
    assert rates.measured
    assert rates.gmacs.keys() == {"fp32", "int8"}
    assert all(0 < value < 1e6 for value in (*rates.gmacs.values(), rates.bandwidth_gbs))
    assert rates.cache_bytes == cache
    assert rates.near_bytes == max(nearer, default=0)
    if rates.cache_bytes is None:
        assert rates.cache_bandwidth_gbs is None
    else:
        assert rates.bandwidth_gbs <= rates.cache_bandwidth_gbs < 1e6
    assert f"{len(usable_cpus())} threads" in rates.source


def rates(fp32: float, int8: float, memory: float, cached: float | None) -> Rates:
    return Rates("here", {"fp32": fp32, "int8": int8}, memory, 2**20, cached, "by hand", measured=True)


def test_of_two_probes_the_better_of_each_rate_counts() -> None:
    assert better_rates(rates(9, 40, 46, 90), rates(8, 44, 82, 80)) == rates(9, 44, 82, 90)
    assert better_rates(rates(9, 40, 46, None), rates(9, 40, 46, None)).cache_bandwidth_gbs is None


@pytest.mark.parametrize(("kind", "given", "made"), [("fp32", np.float32, np.float32), ("int8", np.uint8, np.int32)])
def test_the_product_that_is_timed_is_valid_onnx_and_right(kind: Any, given: type[Any], made: type[Any]) -> None:
    value = np.random.default_rng(5).integers(0, 256, (5, 300)).astype(given)
    data = product_graph(kind, 300, 70)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    with TensorSession(data, threads=1) as session:
        product = session.run({"value": value})["product"]
    assert product.dtype == made
    np.testing.assert_array_equal(product, np.repeat(value.astype(np.int64).sum(axis=1, keepdims=True), 70, axis=1))


def cache(root: Path, cpu: int, index: int, **files: str) -> None:
    folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_each_level_is_all_of_its_instances_that_the_cpus_have(tmp_path: Path) -> None:
    # two clusters of two CPUs: an L2 for each CPU, an L3 for each cluster
    for cpu, cluster in enumerate(("0-1", "0-1", "2-3", "2-3")):
        cache(tmp_path, cpu, 0, level="1", type="Data", size="32K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 1, level="1", type="Instruction", size="64K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 2, level="2", type="Unified", size="512K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 3, level="3", type="Unified", size="2048K", shared_cpu_list=cluster)
    found = [data_caches(cpus, tmp_path) for cpus in ((0, 1), (0, 2), (0, 1, 2, 3), (3,))]
    kib, mib = 2**10, 2**20
    assert found == [
        [64 * kib, mib, 2 * mib],
        [64 * kib, mib, 4 * mib],
        [128 * kib, 2 * mib, 4 * mib],
        [32 * kib, mib // 2, 2 * mib],
    ]


@pytest.mark.parametrize("files", [{}, {"level": "3", "type": "Unified"}, {"level": "x", "type": "Data", "size": "?"}])
def test_a_system_that_does_not_say_has_no_known_cache(tmp_path: Path, files: dict[str, str]) -> None:
    cache(tmp_path, 0, 0, **files)
    assert data_caches((0,), tmp_path) == data_caches((), tmp_path) == []


def test_the_peak_of_memory_is_the_processs_own_and_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t  110592 kB\nVmRSS:\t   10 kB\n")
    assert peak_mib(tmp_path / "status") == 108
    assert peak_mib(tmp_path / "absent") > 1
