"""Fixtures that all tests share: a cache of their own, digits as class folders, a trained model."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import ONNX Runtime before the runtime does
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # some import TensorFlow before the training does
if "PYTEST_XDIST_WORKER" in os.environ:  # one for each core: more threads would be in each other's way
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
# OpenCV reads its settings once, when it is imported: before any test does that by itself
importlib.import_module("hybrid_edge.runtime.opencv")
# under nohup, or in the background of a script, these are ignored by every process that the tests start
for ignored, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers (-n 2), tests that share dear fixtures go to the same one."""
    from support.machines.workers import GroupScheduling

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which workers take them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        from support.machines.workers import place_of

        items.sort(key=lambda item: place_of(item.nodeid))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's own cache is neither read nor written by a test."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("HYBRID_EDGE_CACHE")
    os.environ["HYBRID_EDGE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HYBRID_EDGE_CACHE"]
    else:
        os.environ["HYBRID_EDGE_CACHE"] = before


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """What hybrid-infer does at signals until its process ends, a test that runs it in this process undoes."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's 1,797 digits as train/, val/ and test/ class folders."""
    from hybrid_edge.train.handwritten_digits import prepare_digits

    folder = tmp_path_factory.mktemp("digits")
    prepare_digits(folder)
    return folder


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 24 training and 6 validation images each: what a test can train on in seconds."""
    folder = tmp_path_factory.mktemp("few_digits")
    for split, count in (("train", 24), ("val", 6)):
        for label in "037":
            target = folder / split / label
            target.mkdir(parents=True)
            for image in sorted((digits / split / label).iterdir())[:count]:
                shutil.copy(image, target)
    return folder
