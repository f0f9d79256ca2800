import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_edge.runtime.doctor import gathering
from hybrid_edge.runtime.doctor.gathering import READERS, gather

BOARD = {
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\nFeatures\t: asimd asimddp crc32\n",
    "proc/meminfo": "MemTotal:        7802880 kB\nSwapTotal:       3901440 kB\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
        "GCC version:  collect2: error: ld returned 1 exit status\n"
    ),
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t Orin (nvgpu)\nIRQ:   \t\t 87\n",
    "proc/self/cgroup": "0::/docker/abc\n",
    "sys/fs/cgroup/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/memory.max": "536870912\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "tegra194-cpufreq\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1190400\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
    "sys/class/hwmon/hwmon1/oc3_event_cnt": "4\n",
    "var/lib/dpkg/status": (
        "Package: zlib1g\nVersion: 1:1.2.11\n\n"
        "Package: libnvinfer10\nStatus: installed\nVersion: 10.3.0.30-1+cuda12.5\n\n"
    ),
    "dev/video0": "",
}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    for name, text in BOARD.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "root"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)

    return add


def test_a_jetsons_facts_are_read_where_its_system_keeps_them(board: Path, tool: Callable[[str, str], None]) -> None:
    tool("nvpmodel", "printf 'NVPM VERB: x\\nNV Power Mode: 25W\\n1\\n'")
    facts = gather(board)
    assert (facts.distribution, facts.jetson_linux, facts.jetpack) == ("Ubuntu 22.04.5 LTS", "36.4.3", 6)
    assert facts.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts.cpu_flags == ["asimd", "asimddp"]
    assert (facts.memory, facts.swap, facts.memory_limit, facts.cpu_quota) == (7620, 3810, 512, 0.5)
    assert (facts.driver, facts.gpus) == ("540.4.0", ["Orin (nvgpu)"])
    assert (facts.power_mode, facts.governor, facts.clock, facts.top_clock) == ("25W", "schedutil", 1190, 1728)
    assert facts.throttling == ["over-current"]
    assert facts.system_packages == {"libnvinfer10": "10.3.0.30-1+cuda12.5"}
    assert facts.tensorrt in ("10.3.0.30-1+cuda12.5", facts.packages.get("tensorrt"))
    assert facts.cameras == ["/dev/video0"]


def test_this_machines_facts_are_those_of_this_process() -> None:
    facts = gather()
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert {"hybrid-edge", "numpy"} <= facts.packages.keys()
    assert facts.cache == os.environ["HYBRID_EDGE_CACHE"]
    assert facts.cache_writable is True


@pytest.mark.parametrize("damage", ["folder", "empty", "noise", "gone"])
def test_no_fact_raises_whatever_a_file_is(board: Path, damage: str) -> None:
    for name in BOARD:
        path = board / name
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "gone":
            path.write_bytes(b"" if damage == "empty" else bytes(range(256)) * 40)
    facts = gather(board)
    assert facts.memory is None
    assert facts.unknown["memory"]
    assert set(facts.unknown) <= set(READERS)


def test_a_tool_that_hangs_fails_or_floods_costs_a_fact_and_no_more(
    board: Path, tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "TOOL_SECONDS", 1.0)
    tool("nvpmodel", "sleep 600")
    tool("timedatectl", "kill -SEGV $$")
    tool("gst-launch-1.0", "yes")
    facts = gather(board)
    assert "no end within 1 s" in facts.unknown["power_mode"]
    assert "SIGSEGV" in facts.unknown["time_synchronized"]
    assert "no end within" in facts.unknown["gstreamer"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that /etc/passwd does not know")
def test_a_user_without_a_home_is_told_and_has_a_cache_all_the_same(tmp_path: Path) -> None:
    code = """
import os, tempfile
from hybrid_edge.runtime.doctor.gathering import gather
for name in ("HOME", "HYBRID_EDGE_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
tempfile.tempdir = "/tmp"
os.setuid(54321)
facts = gather()
print(facts.has_home, facts.cache, facts.cache_writable)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "/tmp/hybrid-edge-54321", "True"], done.stderr  # noqa: S108


def test_a_torn_distribution_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn-1.dist-info").mkdir()
    (tmp_path / "torn-1.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "opencv_python-4.11.0.86.dist-info").mkdir()
    (tmp_path / "opencv_python-4.11.0.86.dist-info" / "METADATA").write_text(
        "Name: opencv-python\nVersion: 4.11.0.86\n"
    )
    (tmp_path / "numpy-9.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    found = gather().packages
    assert found["opencv-python"] == "4.11.0.86"  # the first on the path is the one that is imported
    assert found["numpy"] != "9"
