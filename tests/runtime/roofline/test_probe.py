"""The probe on this machine, and the parts that it is made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hybrid_edge.runtime.roofline.caches import data_caches, usable_cpus
from hybrid_edge.runtime.roofline.probe import best_of, probe, rates_apart
from hybrid_edge.runtime.roofline.product_graph import product_graph
from hybrid_edge.runtime.roofline.rates import Rates

from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.errors import UsageError


def test_the_probe_measures_every_rate_of_this_machine() -> None:
    *nearer, cache = data_caches() or (None,)
    rates = probe(0.01)
    assert rates.measured
    assert rates.gmacs.keys() == {"fp32", "int8"}
    assert all(0 < value < 1e6 for value in (*rates.gmacs.values(), rates.bandwidth_gbs))
    assert rates.cache_bytes == cache
    assert rates.near_bytes == max(nearer, default=0)
    if rates.cache_bytes is None:
        assert rates.cache_bandwidth_gbs is None
    else:
        assert rates.cache_bandwidth_gbs is not None
        assert rates.bandwidth_gbs <= rates.cache_bandwidth_gbs < 1e6
    assert f"{len(usable_cpus())} threads" in rates.source


@pytest.mark.parametrize(("seconds", "threads"), [(0, None), (-1, None), (math.nan, None), (1, 0)])
def test_a_probe_of_no_time_or_no_thread_is_refused(seconds: float, threads: int | None) -> None:
    with pytest.raises(UsageError, match="expected seconds > 0 and threads >= 1"):
        probe(seconds, threads=threads)


def rates(fp32: float, int8: float, memory: float, cached: float | None) -> Rates:
    return Rates("here", {"fp32": fp32, "int8": int8}, memory, 2**20, cached, "by hand", measured=True)


def test_of_two_probes_the_better_of_each_rate_counts() -> None:
    assert best_of(rates(9, 40, 46, 90), rates(8, 44, 82, 80)) == rates(9, 44, 82, 90)
    assert best_of(rates(9, 40, 46, None), rates(9, 40, 46, None)).cache_bandwidth_gbs is None


def test_rates_that_two_probes_found_a_tenth_apart_are_told_with_both() -> None:
    apart = rates_apart(rates(10, 40, 46, 90), rates(10.9, 30, 82, 85))
    assert apart == ["INT8 40.0 and 30.0 GMAC/s", "memory 46.0 and 82.0 GB/s"]
    assert rates_apart(rates(10, 40, 46, None), rates(10, 40, 46, 90)) == []


@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_the_product_that_is_timed_is_valid_onnx_and_right(kind: type[Any]) -> None:
    rng = np.random.default_rng(5)
    value = rng.integers(0, 256, (5, 300)).astype(np.uint8 if kind is np.int8 else np.float32)
    weight = rng.integers(-64, 65, (300, 70)).astype(kind)  # two of them saturate nowhere
    data = product_graph(5, weight)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    with TensorSession(data, threads=1) as session:
        product = session.run({"value": value})["product"]
    exact = value.astype(np.int64) - (128 if kind is np.int8 else 0)
    assert product.dtype == (np.int32 if kind is np.int8 else np.float32)
    np.testing.assert_array_equal(product, exact @ weight.astype(np.int64))


def cache(root: Path, cpu: int, index: int, **files: str) -> None:
    folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def four_cpus(tmp_path: Path) -> Path:
    """Two clusters of two CPUs: an L2 for each CPU, an L3 for each cluster."""
    for cpu, cluster in enumerate(("0-1", "0-1", "2-3", "2-3")):
        cache(tmp_path, cpu, 0, level="1", type="Data", size="32K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 1, level="1", type="Instruction", size="64K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 2, level="2", type="Unified", size="512K", shared_cpu_list=str(cpu))
        cache(tmp_path, cpu, 3, level="3", type="Unified", size="2M", shared_cpu_list=cluster)
    return tmp_path


def test_each_level_is_all_of_its_instances_that_the_cpus_have(four_cpus: Path) -> None:
    found = [data_caches(cpus, four_cpus) for cpus in ((0, 1), (0, 2), (0, 1, 2, 3), (3,))]
    kib, mib = 2**10, 2**20
    assert found == [
        (64 * kib, mib, 2 * mib),
        (64 * kib, mib, 4 * mib),
        (128 * kib, 2 * mib, 4 * mib),
        (32 * kib, mib // 2, 2 * mib),
    ]


@pytest.mark.parametrize("files", [{}, {"level": "3", "type": "Unified"}, {"level": "x", "type": "Data", "size": "?"}])
def test_a_system_that_does_not_say_has_no_known_cache(tmp_path: Path, files: dict[str, str]) -> None:
    cache(tmp_path, 0, 0, **files)
    assert data_caches((0,), tmp_path) == data_caches((), tmp_path) == ()
