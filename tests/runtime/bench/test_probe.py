from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.bench.probe import better_rates, data_caches, probe, product_graph
from hybrid_edge.runtime.process import peak_mib, usable_cpus
from hybrid_edge.runtime.roofline import Rates


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
