"""Keras as its users run it: ``model.predict``, or the model inside a ``tf.function``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .worker import Engine, Tensors

__all__ = ["open_engine"]


def open_engine(options: dict[str, Any], threads: int) -> Engine:
    """Load ``options["model"]``, a file of hybrid-train; ``options["call"]`` is ``predict`` or ``function``.

    The model computes its sequence itself, so ``image`` is all that it gets.
    """
    from hybrid_edge.train.tensorflow_import import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    from hybrid_edge.train.model_file import load_model

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model, _ = load_model(Path(options["model"]))
    function = tf.function(lambda image: model(image, training=False))

    def predict(tensors: Tensors) -> Any:
        return model.predict(tensors["image"], batch_size=len(tensors["image"]), verbose=0)

    def call(tensors: Tensors) -> Any:
        return np.asarray(function(tf.constant(tensors["image"])))

    run = predict if options["call"] == "predict" else call
    return Engine(run, {"tensorflow": tf.__version__, "keras": keras.__version__})
