from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import pytest

pytest.importorskip("tensorflow")

from hybrid_edge.runtime.errors import BackendUnavailableError
from hybrid_edge.train.tensorflow_import import import_tensorflow


@pytest.mark.parametrize("seconds", [3600, 4_500_000_000])  # 1970, and 2112
def test_a_clock_with_which_keras_saves_no_model_is_told_before_anything_is_trained(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = time.gmtime(seconds)
    monkeypatch.setattr(time, "localtime", lambda: then)
    with pytest.raises(BackendUnavailableError, match=f"clock says {then.tm_year}; set it"):
        import_tensorflow()


def test_tensorflow_and_blas_take_no_more_threads_than_a_containers_quota_feeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    code = """
from pathlib import Path
from hybrid_edge.runtime import process
process.usable_cpus = lambda: [0]
from hybrid_edge.train.checked_images import THREADS
from hybrid_edge.train.tensorflow_import import import_tensorflow
import_tensorflow()
import tensorflow as tf
from threadpoolctl import threadpool_info
tf.linalg.matmul(*[tf.ones((512, 512))] * 2)
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
print(THREADS, names.count("tf_Compute"), {pool["num_threads"] for pool in threadpool_info()})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 {1}\n"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere TensorFlow's own choice holds")
def test_one_dnn_is_on_whatever_the_kind_of_cpu_unless_it_is_turned_off() -> None:
    code = "import os; from hybrid_edge.train import tensorflow_import as it; it.import_tensorflow()"
    code += "; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    plain = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    for given, found in (({}, "1\n"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0\n")):
        words = [sys.executable, "-c", code]
        assert subprocess.run(words, capture_output=True, text=True, check=True, env=plain | given).stdout == found
