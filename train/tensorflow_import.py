"""Imports TensorFlow without the pages that its libraries write to stderr on every start."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ..runtime.errors import BackendUnavailableError
from ..runtime.foreign_text import filter_libraries
from ..runtime.process import usable_cpus

ZIP_YEARS = (1980, 2107)  # APPNOTE 4.4.6: MS-DOS dates


def import_tensorflow() -> None:
    """Import TensorFlow and let it look for GPUs, both silently; what it wrote is shown if it fails.

    TensorFlow and NumPy's BLAS take no more threads than there are CPUs: of a container's quota they know nothing.

    Raises:
        BackendUnavailableError: TensorFlow or Keras is not installed; the message names the extra. Or the clock, of a
            machine that forgot it say, is at a year in which Keras can't save a model.
    """
    if not ZIP_YEARS[0] <= (year := time.localtime().tm_year) <= ZIP_YEARS[1]:
        raise BackendUnavailableError(
            f"models are saved as ZIP archives, which hold the years {ZIP_YEARS[0]} to {ZIP_YEARS[1]}, found that the "
            f"clock says {year}; set it: timedatectl set-time"
        )
    # 3 shows fatal messages only; at 2 a training prints that the graph optimizer or oneDNN chose another way. What
    # really fails is raised as an exception
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in ("x86_64", "AMD64"):
        # TensorFlow itself leaves it off without VNNI, where a step of ResNet50V2 then takes six times as long
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    cpus = len(usable_cpus())
    for pool in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(pool, str(cpus))
    filter_libraries()
    try:
        with _stderr_kept(), _hidden("sklearn", "matplotlib"):
            import tensorflow as tf  # noqa: PLC0415  # seconds: only when a command is about to work
            from threadpoolctl import ThreadpoolController  # noqa: PLC0415  # on a device it is not installed

            tf.config.list_physical_devices("GPU")  # the search for CUDA writes as well, once
    except ImportError as error:
        raise needs_train_extra(error) from error
    for library in ThreadpoolController().lib_controllers:
        if library.num_threads > cpus:
            library.set_num_threads(cpus)


def needs_train_extra(error: ImportError) -> BackendUnavailableError:
    """Return the error that names the extra with TensorFlow and what comes with it, where that can't be imported."""
    return BackendUnavailableError(
        f"training and export need TensorFlow, which can't be imported here ({error}): "
        "pip install 'hybrid-edge[train,cpu]' on Python 3.11 or later"
    )


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let packages that are not loaded yet look absent.

    Keras imports them for its scikit-learn wrappers and its galleries of images, which nothing here uses and which take
    a quarter of TensorFlow's start.
    """
    absent: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def _stderr_kept() -> Iterator[None]:
    """Send file descriptor 2 to a temporary file, since C++ libraries write past ``sys.stderr``; show it on failure."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
