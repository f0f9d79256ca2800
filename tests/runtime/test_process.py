from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.models.bundles import make_bundle

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.opencv import largest_picture
from hybrid_edge.runtime.process import cpu_identity, usable_cpus, usable_memory

V1 = "4:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n0::/docker/a\n"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not bind processes to CPUs")
@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (None, {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),  # docker run --cpus 2.5: a third thread would be stopped
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9000000 100000"}, 8),
        ("0::/pods/a/b\n", {"pods/cpu.max": "300000 100000", "pods/a/b/cpu.max": "max 100000"}, 3),
        ("0::/../../a\n", {"cpu.max": "300000 100000"}, 3),  # a namespace's path that leads out of it
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "400000", "cpu/docker/a/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),  # a container's own view
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "damaged"}, 8),
    ],
)
def test_cpus_are_no_more_than_the_cgroups_feed(
    cgroup: str | None, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3, 11)))
    contents = {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}
    for name, text in (contents | ({} if cgroup is None else {"proc/self/cgroup": cgroup})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == list(range(3, 3 + expected))


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (None, {}, 4000 * 1024),
        ("0::/a\n", {"a/memory.max": "max"}, 4000 * 1024),
        ("0::/a\n", {"a/memory.max": "max", "memory.max": "1000000"}, 1000000),  # docker run --memory
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "2000000"}, 2000000),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, 4000 * 1024),
    ],
)
def test_memory_is_no_more_than_the_machine_has_and_the_cgroups_let_it_use(
    cgroup: str | None, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    contents = {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}
    contents |= {"proc/meminfo": "MemFree: 1 kB\nMemTotal:       4000 kB\n"}
    for name, text in (contents | ({} if cgroup is None else {"proc/self/cgroup": cgroup})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_memory(tmp_path) == expected
    assert usable_memory(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("gib", "camera"),
    [(0.5, (3840, 2160)), (1.9, (4056, 3040)), (7.4, (8192, 6144)), (15.3, (12000, 9000)), (None, (11648, 8736))],
)
def test_a_devices_memory_is_enough_for_the_pictures_that_are_allowed_and_cameras_of_its_class_are(
    gib: float | None, camera: tuple[int, int]
) -> None:
    memory = None if gib is None else int(gib * 2**30)
    most = largest_picture(memory)
    assert camera[0] * camera[1] <= most < 11500 * 11500  # a PNG of 16 KB can have so many
    assert memory is None or 8 * most <= memory // 6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_leaves_the_cpus_that_the_process_was_given(tmp_path: Path) -> None:
    """ONNX Runtime by itself makes a thread for each core of the machine and binds it there."""
    code = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, {int(sys.argv[2])})
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.opencv import cv2
with TensorSession(Path(sys.argv[1])):
    tasks = map(int, os.listdir("/proc/self/task"))
    print(cv2.getNumThreads(), set().union(*map(os.sched_getaffinity, tasks)))
"""
    graph = next((make_bundle(tmp_path / "bundle") / "artifacts").iterdir())
    first = str(min(os.sched_getaffinity(0)))  # ONNX Runtime's own thread is the caller, and stays where it is
    done = subprocess.run([sys.executable, "-c", code, graph, first], capture_output=True, text=True, check=True)
    assert done.stdout == f"1 {{{first}}}\n"


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules of well-known names, as a bundle's may have; they leave a file behind."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("numpy", "cv2", "json", "statistics", "typing"):
        (folder / f"{name}.py").write_text("import os; os.mkdir('ran'); raise SystemExit\n")
    monkeypatch.chdir(folder)
    return folder


def test_no_process_that_we_start_takes_a_module_of_the_current_folder(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybrid_edge.runtime.bench.fresh_process import measure_starts
    from hybrid_edge.runtime.outputs.display import display_problem

    monkeypatch.setenv("DISPLAY", ":4711")
    assert display_problem() is not None
    bundle = make_bundle(tmp_path / "bundle")
    opened = {"bundle": str(bundle), "fingerprint": Bundle.open(bundle).fingerprint}
    measure_starts({**opened, "threads": 1, "profile": [1, 1, 8]}, ["fp32-cpu"], 1)
    assert not (hostile / "ran").exists()


X86 = """processor : 0
model name : AMD EPYC
cpu MHz : 2445.4
flags : fpu avx2
"""


def identity(root: Path, cpuinfo: str) -> str | None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    return cpu_identity(root)


def test_a_cpu_is_told_by_its_model_and_instructions_and_not_by_its_clock(tmp_path: Path) -> None:
    found = identity(tmp_path, X86)
    assert found is not None
    assert identity(tmp_path, X86.replace("2445.4", "3000.0")) == found
    assert identity(tmp_path, X86.replace("avx2", "avx2 avx512_vnni")) != found
    assert identity(tmp_path, X86.replace("AMD EPYC", "AMD Ryzen")) != found


def test_a_cpu_of_which_the_system_says_nothing_is_not_known(tmp_path: Path) -> None:
    assert cpu_identity(tmp_path) is None
    assert identity(tmp_path, "processor : 0\n") is None
