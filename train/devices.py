"""Several GPUs of one machine train one model: each takes an equal part of every batch, and the gradients are summed.

tf.distribute.MirroredStrategy does it, and what Keras 3 leaves open under it is settled here: a batch is never split
unevenly, BatchNormalization normalizes by the whole batch, dropout differs from one device to the next, and float16
leaves out a step in which the gradients of any device overflowed. So several devices compute what one would.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..runtime.console import say
from ..runtime.errors import UsageError
from .batches import QUEUED_BATCHES, Batches
from .model import KerasModel, leaf_layers
from .training_settings import PhaseSettings


@contextlib.contextmanager
def training_devices(wanted: int | Literal["all"], phases: Sequence[PhaseSettings]) -> Iterator[None]:
    """Let models that are built inside the block train on several devices; with one device the block is like any other.

    ``wanted`` counts GPUs. On a machine without any they are CPU devices, of which TensorFlow has one unless it was
    configured to divide the CPU.

    Raises:
        UsageError: there are fewer devices, or a phase's batch can't be split evenly over them.
    """
    devices = _chosen_devices(wanted)
    if len(devices) < 2:
        yield
        return
    for number, phase in enumerate(phases, start=1):
        if phase.epochs and phase.batch_size % len(devices):
            less = phase.batch_size // len(devices) * len(devices)
            fitting = " or ".join(str(size) for size in (less, less + len(devices)) if size)
            raise UsageError(
                f"expected a batch that {len(devices)} devices can share evenly, found {phase.batch_size} images in "
                f"phase {number}; give --phase{number}-batch {fitting}, or another number of --devices"
            )
    say(f"training on {len(devices)} devices, each takes its part of a batch: {', '.join(devices)}", "")
    with _strategy(tuple(devices)).scope():
        yield


@functools.cache
def _strategy(devices: tuple[str, ...]) -> Any:
    """Make the devices' strategy once a process: the sums of a second would collide with those of the first."""
    tf.get_logger().setLevel("ERROR")  # it tells how gradients are summed at each new graph
    return tf.distribute.MirroredStrategy(devices)


def _chosen_devices(wanted: int | Literal["all"]) -> list[str]:
    if wanted == 1:
        return []  # TensorFlow's own choice
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    found = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]
    listed = f"{len(found)} ({', '.join(found)})" if kind == "GPU" else "no GPU"
    if wanted == "all":
        if len(found) == 1:
            say(f"--devices all: found {listed}; training on {found[0]} alone", "yellow")
        return found
    if wanted > len(found):
        raise UsageError(
            f"--devices {wanted}: expected {wanted} GPUs, found {listed}; --devices all takes what is there"
        )
    return found[:wanted]


def several() -> bool:
    """Return whether several devices train, which is so inside of ``training_devices``."""
    return bool(tf.distribute.get_strategy().num_replicas_in_sync > 1)


def predict(model: KerasModel, inputs: Any) -> npt.NDArray[np.float32]:
    """Run a model in inference mode on one batch of N rows, split over the devices it was built for: (N, …) float32.

    ``inputs`` is an array or a dict of arrays. Keras's ``predict_on_batch`` alone would give each device the whole
    batch, and its rows as often as there are devices.
    """
    strategy = model.distribute_strategy
    count = strategy.num_replicas_in_sync
    if count == 1:
        return np.asarray(model.predict_on_batch(inputs), dtype=np.float32)
    rows = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)

    def split(array: npt.NDArray[np.float32]) -> Any:
        # the last row fills up the parts: none is empty, which some layers can't take
        parts = np.split(array[np.minimum(np.arange(-(-rows // count) * count), rows - 1)], count)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    split_inputs = {name: split(array) for name, array in inputs.items()} if isinstance(inputs, dict) else split(inputs)
    return np.asarray(model.predict_on_batch(split_inputs), dtype=np.float32)[:rows]


def as_stream(batches: Batches) -> Any:
    """Make what ``fit`` takes of endless batches: themselves, or for several devices a ``tf.data.Dataset`` of them.

    ``fit`` draws a batch to build a model on several devices, and begins again. A dataset then begins with batch 0;
    Keras's own worker threads would go on behind what they had read.
    """
    if not several():
        return batches

    def read() -> Iterator[Any]:
        with ThreadPoolExecutor(batches.workers) as pool:
            waiting = deque(pool.submit(batches.__getitem__, index) for index in range(QUEUED_BATCHES))
            for index in itertools.count(QUEUED_BATCHES):
                yield waiting.popleft().result()
                waiting.append(pool.submit(batches.__getitem__, index))

    signature = tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), batches[0])
    return tf.data.Dataset.from_generator(read, output_signature=signature).prefetch(1)


def train_alike(model: KerasModel) -> None:
    """Make a model's layers compute on several devices what they would on one; on one device nothing changes."""
    if not several():
        return
    generators = []
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True  # else each device has statistics of its own, and the first one's are saved
        if generator := getattr(layer, "seed_generator", None):
            generators.append(generator)

    def separate() -> None:
        device = tf.distribute.get_replica_context().replica_id_in_sync_group
        for generator in generators:
            generator.state.assign(generator.state + tf.cast([device, 0], generator.state.dtype))

    # else all devices drop the same units of their parts of a batch
    tf.distribute.get_strategy().run(separate)


def scaled_optimizer(optimizer: Any) -> Any:
    """Return an optimizer for several devices in float16, which scales the loss; any other one as it is."""
    half = keras.mixed_precision.global_policy().name == "mixed_float16"
    return _LossScaleOfAll(optimizer) if half and several() else optimizer


class _LossScaleOfAll(keras.optimizers.LossScaleOptimizer):  # type: ignore[misc]  # keras ships no types
    """Looks for overflows on all devices; Keras looks at the first one alone, and another's reach all weights."""

    def check_finite(self, grads: Any) -> Any:
        overflowed = tf.cast(tf.logical_not(super().check_finite(grads)), tf.float32)
        context = tf.distribute.get_replica_context()
        return tf.equal(context.all_reduce(tf.distribute.ReduceOp.SUM, overflowed), 0.0)
