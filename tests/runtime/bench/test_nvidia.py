from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from hybrid_edge.runtime.bench.energy import PowerMeter, joules_per_frame
from hybrid_edge.runtime.bench.nvidia import board_watts, power_mode, query_gpu

# lines of tegrastats as people recorded them on their boards
ORIN_NANO = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729,14%@729,13%@729,"
    "11%@729,8%@729] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 "
    "cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C VDD_IN 12479mW/12479mW "
    "VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW"
)
AGX_ORIN = (
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ "
    "0%@2133 "
    "GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C Tboard@32C tj@42.593C "
    "VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
XAVIER_NX = (
    "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%@1190,6%@1190] EMC_FREQ 10%@1600 "
    "GR3D_FREQ 62%@306 "
    "APE 150 MTS fg 0% bg 0% AO@41.5C GPU@43C PMIC@100C AUX@41.5C CPU@43.5C thermal@42.55C VDD_IN 4067/4067 "
    "VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
)
AGX_XAVIER = (
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,off] EMC_FREQ 0%@665 GR3D_FREQ 0%@318 "
    "APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C PMIC@100C thermal@36.9C Tboard@37C GPU 0/0 CPU 311/311 "
    "SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
NANO = (
    "RAM 613/3964MB (lfb 634x4MB) SWAP 0/1982MB (cached 0MB) CPU [2%@102,1%@102,0%@102,0%@102] EMC_FREQ 0% "
    "GR3D_FREQ 0% PLL@39C CPU@40.5C PMIC@100C GPU@41C AO@46C thermal@41C "
    "POM_5V_IN 900/943 POM_5V_GPU 0/0 POM_5V_CPU 123/123"
)
TX2 = (
    "RAM 1345/7829MB (lfb 1290x4MB) SWAP 0/512MB (cached 0MB) CPU [2%@345,off] EMC_FREQ 13%@40 GR3D_FREQ 0%@114 "
    "APE 150 BCPU@35C thermal@35.5C VDD_IN 2003/2658 VDD_CPU 320/518 VDD_GPU 400/735 VDD_SOC 400/415 "
    "VDD_WIFI 0/0 VDD_DDR 240/348"
)
THOR = (
    "01-20-2026 22:46:22 RAM 17842/125772MB (lfb 79x4MB) CPU [0%@972,0%@972,0%@1566] cpu@30.468C tj@31.218C "
    "soc012@30.218C soc345@31.218C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 5535mW/5535mW VIN_SYS_5V0 5040mW/5040mW "
    "VIN 16802mW/16802mW"
)
THOR_JETPACK_7_2 = (
    "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972,1%@972] cpu@60.406C "
    "gpu@62.906C VDD_GPU 37528mW/37528mW/37528mW VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW "
    "VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"
)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Programs of these names, each a shell script, in the place of NVIDIA's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)

    return add


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (ORIN_NANO, 12.479),
        (AGX_ORIN, 2.399 + 0.4 + 4.032),  # VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0
        (XAVIER_NX, 4.067),
        (AGX_XAVIER, (0 + 311 + 932 + 0 + 621 + 1482) / 1000),
        (NANO, 0.9),
        (TX2, 2.003),
        (THOR, 16.802),
        (THOR_JETPACK_7_2, 87.426),
        ("RAM 613/3964MB (lfb 634x4MB) CPU [2%@102] VDD_SOC 1353/1353", None),
        ("", None),
    ],
    ids=[
        "Orin Nano",
        "AGX Orin",
        "Xavier NX",
        "AGX Xavier",
        "Nano",
        "TX2",
        "Thor",
        "Thor, JetPack 7.2",
        "a part alone",
        "nothing",
    ],
)
def test_the_power_of_the_whole_module_is_found_on_each_board(line: str, watts: float | None) -> None:
    assert board_watts(line) == (None if watts is None else pytest.approx(watts))


def test_nvidia_smi_answers_what_it_knows_and_the_rest_is_left_out(tools) -> None:  # type: ignore[no-untyped-def]
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
def test_an_nvidia_smi_without_a_driver_says_nothing(tools, script: str) -> None:  # type: ignore[no-untyped-def]
    tools("nvidia-smi", script)
    assert query_gpu() == {}


@pytest.mark.parametrize(
    ("script", "mode"),
    [("printf 'NV Power Mode: MAXN\\n0\\n'", "MAXN"), ("printf 'NVPM VERB: x\\nNV Power Mode: 15W\\n2\\n'", "15W")],
)
def test_the_power_mode_is_nvpmodels(tools, script: str, mode: str) -> None:  # type: ignore[no-untyped-def]
    tools("nvpmodel", script)
    assert power_mode() == mode


def test_without_nvpmodel_there_is_no_power_mode(tools) -> None:  # type: ignore[no-untyped-def]
    assert power_mode() is None


def test_joules_of_a_frame_are_the_modules_power_times_its_time(tools) -> None:  # type: ignore[no-untyped-def]
    tools("tegrastats", f"while true; do echo '{ORIN_NANO}'; sleep 0.02; done")
    start = time.monotonic()
    with PowerMeter() as meter:
        assert meter.present
        joules = joules_per_frame(meter, lambda: time.sleep(0.1), 4, seconds=0.35)
    assert joules is not None
    assert 0.1 <= 4 * joules / 12.479 <= time.monotonic() - start  # seconds of a call: a sleep of 0.1 s, or longer


def test_a_machine_without_tegrastats_has_no_joules(tools) -> None:  # type: ignore[no-untyped-def]
    with PowerMeter() as meter:
        assert not meter.present
        assert joules_per_frame(meter, lambda: None, 1, seconds=0) is None
