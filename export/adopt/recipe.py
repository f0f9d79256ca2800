"""Reads the configuration of a model into a recipe: Keras's own layers, plain settings, and who calls whom.

All that Keras 2 and 3 write, in an ``.h5`` or a ``.keras``, becomes one form here, in which nothing can be code. A
layer that is not known to be harmless and of Keras is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...runtime.errors import ModelFileError
from .layer_settings import ACTIVATION_LAYERS, INDIFFERENT, clean_settings, excerpt, layer_class, plain
from .operations import scalar_arithmetic, settings_of_operation

MAX_LAYERS = 3000  # EfficientNetV2L has 1,030
MAX_TENSORS = 10_000  # with which all layers are called
AS_ACTIVATIONS = ("relu", "relu6", "sigmoid", "softmax", "silu", "tanh")  # the same as a layer and as a function
MAX_MODEL_DEPTH = 8  # models in models


class TensorAt(NamedTuple):
    """The output of one call of a layer: the layer's name, the number of the call, the number of the output."""

    layer: str
    call: int
    output: int


@dataclass(frozen=True)
class Call:
    """One call of a layer; in the arguments, in lists too, stand a ``TensorAt`` or plain values."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerRecipe:
    """One layer: a class of ``keras.layers`` with plain settings, a function ``ops.NAME``, or a whole model inside."""

    name: str
    class_name: str
    settings: dict[str, Any]
    calls: tuple[Call, ...] = ()
    model: ModelRecipe | None = None


@dataclass(frozen=True)
class ModelRecipe:
    """A model of layers; a sequential one is a chain, whose layers have no calls."""

    name: str
    sequential: bool
    layers: tuple[LayerRecipe, ...]
    inputs: tuple[TensorAt, ...] = ()
    outputs: tuple[TensorAt, ...] = ()
    input_shape: tuple[int | None, ...] | None = None  # without the batch

    def leaves(self) -> Iterator[LayerRecipe]:
        """Yield every layer that is no model, in models inside too; of a wrapper also the layer that it wraps."""
        for layer in self.layers:
            yield from _leaves(layer)


def _leaves(layer: LayerRecipe) -> Iterator[LayerRecipe]:
    if layer.model is not None:
        yield from layer.model.leaves()
        return
    yield layer
    for key in ("layer", "backward_layer"):
        if isinstance(layer.settings.get(key), LayerRecipe):
            yield from _leaves(layer.settings[key])


def tensors_in(value: Any) -> Iterator[TensorAt]:
    """Yield the references in an argument, in lists too."""
    if isinstance(value, TensorAt):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from tensors_in(item)


def read_recipe(config: Any, keras_version: str) -> ModelRecipe:
    """Return the recipe of a model from its configuration, as Keras 2 or 3 wrote it.

    Raises:
        ModelFileError: something in it is not of Keras, may be code, is larger than any model, or is malformed; the
            message names the layer. It does not name the file.
    """
    reader = _Reader(old=keras_version.startswith(("0", "1", "2")))
    try:
        layer = reader.layer(config, depth=0)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"the configuration of the model is malformed: {type(error).__name__}: {error}") from None
    if layer.model is None:
        raise ModelFileError(f"expected a model, found the single layer {layer.name!r} ({layer.class_name})")
    model = layer.model
    if not model.sequential and (len(model.inputs) != 1 or len(model.outputs) != 1):
        raise ModelFileError(
            f"expected one image input and one output of scores, found {len(model.inputs)} inputs "
            f"({_names(model.inputs)}) and {len(model.outputs)} outputs ({_names(model.outputs)}); make a model of the "
            "part that classifies: keras.Model(image, scores)"
        )
    return model


def keras_name(name: Any) -> str:
    """Return a layer's name as Keras 3 takes it: Keras 2 names some of MobileNetV3 ``Conv/BatchNorm``."""
    return str(name)[:200].replace("/", "_")


def _names(tensors: tuple[TensorAt, ...]) -> str:
    return ", ".join(tensor.layer for tensor in tensors[:5])


@dataclass
class _Reader:
    """Reads one configuration; ``old`` is whether Keras 2 wrote it."""

    old: bool
    layers: int = 0
    tensors: int = 0

    def layer(self, config: Any, depth: int, *, called: bool = False) -> LayerRecipe:
        """Read a layer or a model; ``called`` is whether it stands in a graph and has calls."""
        self.layers += 1
        if self.layers > MAX_LAYERS or depth > MAX_MODEL_DEPTH:
            raise ModelFileError(f"the model has over {MAX_LAYERS} layers, or {MAX_MODEL_DEPTH} models in one another")
        if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
            raise ModelFileError(f"expected a layer, found {excerpt(config)}")
        settings = config.get("config")
        given = config.get("name", settings.get("name", "") if isinstance(settings, dict) else "")
        name = keras_name(given or config["class_name"].lower())
        nodes = _nodes(config.get("inbound_nodes", [])) if called else []
        calls = tuple(self.call(node, name, config["class_name"]) for node in nodes)
        operation = settings_of_operation(config, name)
        if operation is not None:
            return self._operation(name, *operation, calls)
        class_name = layer_class(config, name, old=self.old)
        if class_name in ("Functional", "Sequential"):
            return LayerRecipe(name, class_name, {}, calls, self.model(class_name, settings, name, depth + 1))
        if not isinstance(settings, dict):
            raise ModelFileError(f"layer {name!r} ({class_name}): expected its settings, found {excerpt(settings)}")
        inner: dict[str, Any] = {}
        for key in ("layer", "backward_layer"):  # of Bidirectional and TimeDistributed
            if settings.get(key) is not None:
                inner[key] = self.layer(settings[key], depth + 1)
        activation = settings.get("activation")
        if isinstance(activation, dict) and activation.get("class_name") in ACTIVATION_LAYERS:
            inner["activation"] = self.layer(activation, depth + 1)
        rest = {key: value for key, value in settings.items() if key not in ("layer", "backward_layer", *inner)}
        cleaned = clean_settings(class_name, rest, name, old=self.old)
        return LayerRecipe(name, cleaned.class_name, {**cleaned.settings, **inner}, calls)

    def model(self, class_name: str, config: Any, name: str, depth: int) -> ModelRecipe:
        """Read the layers of a model and, of a functional one, its inputs and outputs."""
        sequential = class_name == "Sequential"
        listed = config if isinstance(config, list) else config["layers"]  # a Sequential of Keras 2.1 is a bare list
        if not isinstance(listed, list) or not listed:
            raise ModelFileError(f"model {name!r}: expected a list of layers, found {excerpt(listed)}")
        layers = tuple(self.layer(layer, depth, called=not sequential) for layer in listed)
        if sequential:
            built = config.get("build_input_shape") if isinstance(config, dict) else None
            first = listed[0]["config"]
            first = first if isinstance(first, dict) else {}
            shape = first.get("batch_input_shape", first.get("batch_shape", built))
            return ModelRecipe(name, True, layers, input_shape=_shape(shape, layers, name))
        names = [layer.name for layer in layers]
        if len(set(names)) != len(names):
            raise ModelFileError(f"model {name!r}: two layers have the same name")
        inputs, outputs = (tuple(_tensors(config[key])) for key in ("input_layers", "output_layers"))
        own = next((layer for layer in layers if inputs and layer.name == inputs[0].layer), None)
        shape = None if own is None else own.settings.get("shape")
        return ModelRecipe(name, False, layers, inputs, outputs, None if shape is None else tuple(shape))

    def call(self, node: Any, name: str, class_name: str) -> Call:
        """Read one call: of Keras 3 its arguments, of Keras 2 a list of tensors, the last with the other arguments."""
        if isinstance(node, dict):
            args = [_argument(value, name) for value in node["args"]]
            kwargs = {str(key): _argument(value, name) for key, value in node["kwargs"].items()}
        else:
            tensors = [node] if node and isinstance(node[0], str) else node
            args = [TensorAt(keras_name(item[0]), int(item[1]), int(item[2])) for item in tensors]
            args = args if len(args) == 1 else [args]
            settings = tensors[-1][3] if tensors and len(tensors[-1]) > 3 else {}
            kwargs = {str(key): _old_argument(value, name) for key, value in settings.items() if key != "name"}
        self.tensors += 1 + sum(1 for _ in tensors_in([*args, *kwargs.values()]))
        if self.tensors > MAX_TENSORS:
            raise ModelFileError(f"its layers are called with over {MAX_TENSORS} tensors; no model is so large")
        if kwargs.pop("training", None) and class_name not in INDIFFERENT:
            raise ModelFileError(
                f"layer {name!r} is called with training=True: it answers by chance. Build the model without it, give "
                "it these weights, and save again"
            )
        if kwargs.pop("mask", None) is not None:
            raise ModelFileError(f"layer {name!r} is called with a mask; an image has none. Build the model without it")
        return Call(tuple(args), {key: value for key, value in kwargs.items() if value is not None})

    @staticmethod
    def _operation(name: str, operation: str, settings: dict[str, Any], calls: tuple[Call, ...]) -> LayerRecipe:
        """Make the layer of a function: with one number ``a`` in ``x * a`` or ``x + a`` it is a Rescaling."""
        calls = tuple(_positional(call) for call in calls)
        if len(calls) == 1 and not settings:
            rescaling = scalar_arithmetic(operation, calls[0].args, TensorAt) if not calls[0].kwargs else None
            if rescaling is not None:
                tensor, scale, offset = rescaling
                return LayerRecipe(
                    name, "Rescaling", {"name": name, "scale": scale, "offset": offset}, (Call((tensor,)),)
                )
        if operation in AS_ACTIVATIONS and settings in ({}, {"axis": -1}):  # a softmax at the end is looked for
            return LayerRecipe(name, "Activation", {"name": name, "activation": operation}, calls)
        return LayerRecipe(name, f"ops.{operation}", settings, calls)


def _positional(call: Call) -> Call:
    """Return a call in which the second of two operands has no name: TensorFlow and Keras name it differently."""
    names = ("y", "x2", "bias", "slice_spec")
    operands = [call.kwargs[key] for key in names if key in call.kwargs]
    kwargs = {key: value for key, value in call.kwargs.items() if key not in names}
    if kwargs.get("data_format") == "NHWC":  # of bias_add
        del kwargs["data_format"]
    return Call((*call.args, *operands), kwargs)


def _nodes(nodes: Any) -> list[Any]:
    """Return the calls of a layer; Keras 2 writes that of a function, on one tensor, without the list around it."""
    if not isinstance(nodes, list):
        raise TypeError(f"expected calls, found {excerpt(nodes)}")
    return [node for node in nodes if node]


def _tensors(value: Any) -> list[TensorAt]:
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if value and isinstance(value[0], str):
        return [TensorAt(keras_name(value[0]), int(value[1]), int(value[2]))]
    return [tensor for item in value for tensor in _tensors(item)]


def _argument(value: Any, name: str, depth: int = 0) -> Any:
    if depth > 4:
        raise ModelFileError(f"layer {name!r}: an argument is nested too deeply")
    if isinstance(value, list):
        return [_argument(item, name, depth + 1) for item in value]
    kind = value.get("class_name") if isinstance(value, dict) else None
    if kind == "__keras_tensor__":
        layer, call, output = value["config"]["keras_history"]
        return TensorAt(keras_name(layer), int(call), int(output))
    if isinstance(value, dict) and set(value) == {"start", "stop", "step"}:  # Keras 2's
        return slice(*(plain(value[key], name, "a slice") for key in ("start", "stop", "step")))
    if kind == "__slice__":
        return slice(*(plain(value["config"][key], name, "a slice") for key in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return Ellipsis
    return plain(value, name, "an argument")


def _old_argument(value: Any, name: str) -> Any:
    """Read an argument that Keras 2 wrote beside the tensors: a tensor is a list of a name and two numbers there."""
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        return TensorAt(keras_name(value[0]), int(value[1]), int(value[2]))
    return _argument(value, name)


def _shape(batch_shape: Any, layers: tuple[LayerRecipe, ...], name: str) -> tuple[int | None, ...] | None:
    if batch_shape is not None:
        return tuple(plain(batch_shape, name, "the input shape")[1:])
    first = layers[0]
    return first.model.input_shape if first.model is not None else None
