"""Recurrent Keras layers with each of their options, small ones, and their graphs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import onnx

from hybrid_edge.export.convert.fp32_graph import IR_VERSION, OPSET, set_versions
from hybrid_edge.export.convert.graph_writer import GraphWriter
from hybrid_edge.export.convert.recurrent import Form, write_batch_major
from hybrid_edge.export.convert.recurrent_layer import RecurrentLayer
from hybrid_edge.runtime.spec import ModelSpec
from support.models.lowered import randomize

TIMESTEPS, VALUES, UNITS = 8, 8, 7
SPEC = ModelSpec(image_size=8, timesteps=TIMESTEPS, branches="rnn", class_labels=("a", "b"))
layers = keras.layers


def _both(kind: Any, merge: str, **options: Any) -> Any:
    return layers.Bidirectional(kind(UNITS, **options), merge_mode=merge, name="layer")


LAYERS: dict[str, Callable[[], Any]] = {
    f"{kind.__name__} {sequences=} {backwards=}": partial(
        kind, UNITS, return_sequences=sequences, go_backwards=backwards, name="layer"
    )
    for kind in (layers.LSTM, layers.GRU)
    for sequences in (False, True)
    for backwards in (False, True)
}
LAYERS |= {
    f"{kind.__name__} {options}": partial(kind, UNITS, name="layer", return_sequences=True, **options)
    for kind, options in (
        (layers.LSTM, {"use_bias": False}),
        (layers.LSTM, {"recurrent_activation": "hard_sigmoid"}),
        (layers.LSTM, {"dropout": 0.2, "recurrent_dropout": 0.2, "unroll": True}),
        (layers.GRU, {"use_bias": False}),
        (layers.GRU, {"reset_after": False}),
        (layers.GRU, {"reset_after": False, "use_bias": False}),
        (layers.GRU, {"recurrent_activation": "hard_sigmoid"}),
    )
}
LAYERS |= {
    f"Bidirectional {kind.__name__} {merge} {options}": partial(_both, kind, merge, **options)
    for kind, merge, options in (
        (layers.LSTM, "concat", {}),
        (layers.LSTM, "concat", {"return_sequences": True}),
        (layers.LSTM, "sum", {"return_sequences": True}),
        (layers.LSTM, "mul", {}),
        (layers.LSTM, "ave", {"return_sequences": True, "recurrent_activation": "hard_sigmoid"}),
        (layers.GRU, "concat", {"return_sequences": True}),
        (layers.GRU, "ave", {}),
        (layers.GRU, "mul", {"return_sequences": True, "reset_after": False}),
    )
}


def make_layer(make: Callable[[], Any]) -> Any:
    """The layer, built on (N, T, I), with every weight away from its initial value."""
    layer = make()
    layer.build((2, TIMESTEPS, VALUES))
    randomize(layer)
    return layer


def written(stack: Any, form: Form) -> onnx.ModelProto:
    """The graph of a layer, or of several one behind the other, from ``sequence`` (N, T, I) to ``logits``."""
    writer = GraphWriter("recurrent")
    value = writer.input("sequence", (TIMESTEPS, VALUES))
    shape: tuple[int | None, ...] = (None, TIMESTEPS, VALUES)
    for layer in stack if isinstance(stack, list) else [stack]:
        value = write_batch_major(writer, RecurrentLayer.of(layer), value, form=form, timesteps=TIMESTEPS)
        shape = layer.compute_output_shape(shape)
    writer.node("Identity", [value], "logits")
    writer.node("Softmax", ["logits"], "probabilities", axis=-1)
    for name in ("logits", "probabilities"):
        writer.output(name, tuple(int(size) for size in shape[1:] if size))
    set_versions(writer.model, OPSET, IR_VERSION)
    return writer.model
