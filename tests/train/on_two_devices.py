"""Run as a script: trains and computes on two logical CPUs, and prints what came out as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from hybrid_edge.train.tensorflow_import import import_tensorflow

import_tensorflow()

import keras
import numpy as np
import tensorflow as tf

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.train import trainer
from hybrid_edge.train.devices import predict, scaled_optimizer, train_alike, training_devices
from hybrid_edge.train.training_settings import PHASES


def rows_once() -> dict[str, bool]:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    batches = [np.arange(3 * rows, dtype=np.float32).reshape(rows, 3) for rows in (1, 5, 8)]
    return {str(len(batch)): np.allclose(predict(model, batch), model(batch), rtol=1e-6) for batch in batches}


def dropped() -> list[list[float]]:
    layer = keras.layers.Dropout(0.5)
    train_alike(keras.Sequential([keras.Input((64,)), layer]))
    strategy = tf.distribute.get_strategy()
    masks = strategy.run(lambda: layer(tf.ones((1, 64)), training=True))
    return [mask.numpy().ravel().tolist() for mask in strategy.experimental_local_results(masks)]


def left_out(poisoned: int | None) -> bool:
    """Return whether one step left the weights as they were; a row of the batch, if any, makes gradients infinite."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.compile(scaled_optimizer(keras.optimizers.SGD(0.1)), "mse", jit_compile=False)
    inputs = np.full((8, 4), 0.01, dtype=np.float32)
    if poisoned is not None:
        inputs[poisoned] = 6e4
    before = model.get_weights()
    model.fit(inputs, np.zeros((8, 2), np.float32), batch_size=8, epochs=1, verbose=0, shuffle=False)
    return all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def refusal() -> str:
    first, second = PHASES["digits"]
    try:
        with training_devices("all", (first, second.model_copy(update={"epochs": 1, "batch_size": 7}))):
            return ""
    except UsageError as error:
        return str(error)


def main(run: Path) -> None:
    """End a training on two devices, and print what else they did."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    trainer.resume(run, devices="all")
    told: dict[str, Any] = {"refused": refusal()}
    with training_devices(2, ()):
        told |= {"rows": rows_once(), "dropped": dropped()}
        keras.mixed_precision.set_global_policy("mixed_float16")
        told["overflow"] = {"second": left_out(7), "neither": left_out(None)}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
