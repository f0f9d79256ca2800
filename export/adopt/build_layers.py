"""Makes a Keras model of a recipe: each layer by Keras's own constructor, and each call in its turn."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from ...runtime.errors import ModelFileError
from ...train.model import KerasModel
from ...train.model_file import first_line
from .recipe import LayerRecipe, ModelRecipe, TensorAt, tensors_in

MAX_OUTPUT = 2**26  # elements a layer gives for one image, 256 MiB; an Xception's largest has 1.4 million


def build_from_recipe(recipe: ModelRecipe) -> KerasModel:
    """Return the model of a recipe.

    Raises:
        ModelFileError: Keras can't build a layer, or one gives more for one image than memory holds; it is named.
    """
    return _build_chain(recipe) if recipe.sequential else _build_graph(recipe)


def _build_chain(recipe: ModelRecipe) -> KerasModel:
    parts = [layer for layer in recipe.layers if layer.class_name != "InputLayer"]
    made = [make_layer(layer) for layer in parts]
    start = [] if recipe.input_shape is None else [keras.Input(recipe.input_shape)]
    value = start
    for layer, instance in zip(parts, made, strict=True) if start else ():  # one by one: an error has a layer's name
        with named(layer.name, layer.class_name):
            value = [instance(*value)]
        _check_size(layer, instance, value)
    with named(recipe.name, "Sequential"):
        return keras.Sequential([*start, *made], name=recipe.name)


def _build_graph(recipe: ModelRecipe) -> KerasModel:
    graph = _Graph(recipe)
    while graph.ready:
        graph.call(*graph.ready.popleft())
    return graph.model()


class _Graph:
    """A functional model that is being built: each layer is called as soon as all that it is called with is there."""

    def __init__(self, recipe: ModelRecipe) -> None:
        self.recipe = recipe
        self.numbers = _Numbers(recipe)
        self.layers = {layer.name: make_layer(layer) for layer in recipe.layers}
        self.tensors: dict[tuple[str, int], list[Any]] = {
            (layer.name, 0): [self.layers[layer.name].output]
            for layer in recipe.layers
            if layer.class_name == "InputLayer"
        }
        self.ready: deque[tuple[LayerRecipe, int]] = deque()
        self.missing: dict[tuple[str, int], int] = {}
        self.waiting: dict[tuple[str, int], list[tuple[LayerRecipe, int]]] = defaultdict(list)
        for layer in recipe.layers:
            for number in range(len(layer.calls)):
                self._expect(layer, number)

    def _expect(self, layer: LayerRecipe, number: int) -> None:
        call = layer.calls[number]
        needed = {self.numbers.of_argument(tensor) for tensor in tensors_in([*call.args, *call.kwargs.values()])}
        absent = [key for key in needed if key not in self.tensors]
        self.missing[layer.name, number] = len(absent)
        for key in absent:
            self.waiting[key].append((layer, number))
        if not absent:
            self.ready.append((layer, number))

    def call(self, layer: LayerRecipe, number: int) -> None:
        """Call a layer, check what it gives, and make ready what waited for it alone."""
        call = layer.calls[number]
        with named(layer.name, layer.class_name):
            outputs = self.layers[layer.name](*self._resolved(call.args), **self._resolved(call.kwargs))
        self.tensors[layer.name, number] = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        _check_size(layer, self.layers[layer.name], self.tensors[layer.name, number])
        for waiter, its_number in self.waiting.pop((layer.name, number), []):
            self.missing[waiter.name, its_number] -= 1
            if not self.missing[waiter.name, its_number]:
                self.ready.append((waiter, its_number))

    def model(self) -> KerasModel:
        """Return the model between the recipe's inputs and outputs."""
        if self.waiting:
            raise ModelFileError(f"nothing leads to the layer {next(iter(self.waiting))[0]!r}, or it feeds itself")
        with named(self.recipe.name, "Functional"):
            inputs, outputs = (
                [self.tensors[self.numbers.of_end(tensor)][tensor.output] for tensor in ends]
                for ends in (self.recipe.inputs, self.recipe.outputs)
            )
            return keras.Model(_one(inputs), _one(outputs), name=self.recipe.name)

    def _resolved(self, value: Any) -> Any:
        """Return arguments in which each reference is the tensor that it means."""
        if isinstance(value, TensorAt):
            return self.tensors[self.numbers.of_argument(value)][value.output]
        if isinstance(value, dict):
            return {key: self._resolved(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._resolved(item) for item in value]
        return value


class _Numbers:
    """Which call of a layer a reference means; Keras counts those of a model inside from 0 here and from 1 there."""

    def __init__(self, recipe: ModelRecipe) -> None:
        self.models = {layer.name: layer for layer in recipe.layers if layer.model is not None}
        self.first: dict[str, int] = {}
        for layer in recipe.layers:
            for call in layer.calls:
                for tensor in tensors_in([*call.args, *call.kwargs.values()]):
                    self.first[tensor.layer] = min(tensor.call, self.first.get(tensor.layer, tensor.call))

    def of_argument(self, tensor: TensorAt) -> tuple[str, int]:
        """Return the layer and the call, counted from 0, of a tensor with which a layer is called."""
        return tensor.layer, tensor.call - (self.first[tensor.layer] if tensor.layer in self.models else 0)

    def of_end(self, tensor: TensorAt) -> tuple[str, int]:
        """Return the layer and the call, counted from 0, of an input or output of the model."""
        found = self.models.get(tensor.layer)
        if found is None or found.model is None:
            return tensor.layer, tensor.call
        if len(found.calls) > 1 and found.model.sequential:
            raise ModelFileError(
                f"the model {found.name!r} is called several times and is the output; put a layer behind it"
            )
        return tensor.layer, tensor.call - 1 if len(found.calls) > 1 else 0


def make_layer(layer: LayerRecipe) -> Any:
    """Make a layer without calling it; of a function, the function with its settings."""
    if layer.model is not None:
        return build_from_recipe(layer.model)
    if layer.class_name == "ops.identity":
        return lambda value, **_: value
    with named(layer.name, layer.class_name):
        if layer.class_name.startswith("ops."):
            return _Function(layer)
        inner = {
            key: make_layer(value) if isinstance(value, LayerRecipe) else value for key, value in layer.settings.items()
        }
        if layer.class_name == "InputLayer":
            return keras.layers.InputLayer(shape=inner["shape"], name=layer.name)
        made_of = LayerScale if layer.class_name == "LayerScale" else getattr(keras.layers, layer.class_name)
        return made_of(**inner)


class LayerScale(keras.layers.Layer):  # type: ignore[misc]
    """ConvNeXt's scale for each channel; Keras has it beside its application and not among its layers.

    The arrays of a ``.keras`` are found by the name of the class.
    """

    def __init__(self, projection_dim: int, name: str) -> None:
        super().__init__(name=name)
        self.gamma = self.add_weight(shape=(projection_dim,), name="gamma")

    def call(self, value: Any) -> Any:
        """Scale the last axis."""
        return value * self.gamma


class _Function(keras.Operation):  # type: ignore[misc]
    """A function of ``keras.ops`` under the layer's own name; Keras's numbers would meet names of the file."""

    def __init__(self, layer: LayerRecipe) -> None:
        super().__init__(name=layer.name)
        self._function = getattr(keras.ops, layer.class_name.removeprefix("ops."))
        self._settings = {key: _tuples(value) for key, value in layer.settings.items()}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the function; numbers and cuts may stand among its arguments."""
        return self._function(*map(_tuples, args), **kwargs, **self._settings)


@contextmanager
def named(name: str, class_name: str) -> Iterator[None]:
    """Give an error of Keras, of one of its many types, the name of the layer that it is about."""
    try:
        yield
    except ModelFileError as error:
        text = str(error)
        raise ModelFileError(text if text.startswith("layer ") else f"layer {name!r} ({class_name}): {text}") from error
    except Exception as error:
        raise ModelFileError(f"layer {name!r} ({class_name}) can't be built: {what_it_said(error)}") from error


def what_it_said(error: Exception) -> str:
    """Return the line of an error that says what is wrong; Keras often begins with where it was instead."""
    if isinstance(error, MemoryError):
        return "no memory for it"
    lines = [line for line in str(error).splitlines() if line.strip()]
    vague = lines[:1] and lines[0].startswith(("Exception encountered when calling", "A total of "))
    return first_line(ValueError(lines[1])) if vague and len(lines) > 1 else first_line(error)


def _check_size(layer: LayerRecipe, made: Any, outputs: list[Any]) -> None:
    """Refuse what a layer gives, or a layer in a chain that was called for the first time, if it is too large."""
    inside = [inner.output for inner in made.layers] if isinstance(made, keras.Sequential) else []
    for output in [*inside, *outputs]:
        if math.prod(size or 1 for size in output.shape[1:]) > MAX_OUTPUT:
            raise ModelFileError(
                f"layer {layer.name!r} ({layer.class_name}) gives the shape {tuple(output.shape)}; expected at most "
                f"{MAX_OUTPUT} elements for one image"
            )


def _tuples(value: Any) -> Any:
    """Return a list of numbers or slices as a tuple, as keras.ops takes axes, shapes and cuts."""
    if isinstance(value, list) and value and all(isinstance(item, int | slice | type(...) | None) for item in value):
        return tuple(value)
    return value


def _one(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
