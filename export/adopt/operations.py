"""The functions of Keras that may stand between layers, and of Keras 2 those of TensorFlow that mean the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...runtime.errors import ModelFileError
from .layer_settings import of_keras, plain

# class in a configuration of Keras 3 -> function of keras.ops
OPERATIONS = {
    **{name: name.lower() for name in ("Add", "Subtract", "Multiply", "Divide", "Power", "Negative", "Absolute")},
    **{name: name.lower() for name in ("Sqrt", "Square", "Exp", "Log", "Maximum", "Minimum", "Mean", "Max", "Min")},
    **{name: name.lower() for name in ("Sum", "Clip", "Reshape", "Transpose", "Squeeze", "Concatenate", "Stack")},
    **{name: name.lower() for name in ("Matmul", "Moveaxis", "Swapaxes", "Flip", "Reciprocal", "Rsqrt", "Tanh")},
    **{name: name.lower() for name in ("Relu", "Relu6", "Sigmoid", "Softplus", "Softsign", "Silu", "Elu", "Selu")},
    **{name: name.lower() for name in ("Gelu", "Softmax", "Pad", "Split", "Normalize", "Var", "Std")},
    "TrueDivide": "true_divide",
    "ExpandDims": "expand_dims",
    "GetItem": "get_item",
    "LeakyRelu": "leaky_relu",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LogSoftmax": "log_softmax",
    "AveragePool": "average_pool",
    "MaxPool": "max_pool",
}
# what TFOpLambda of Keras 2 calls -> function of keras.ops
TENSORFLOW = {
    "__operators__.add": "add",
    "math.add": "add",
    "math.subtract": "subtract",
    "math.multiply": "multiply",
    "math.truediv": "true_divide",
    "math.divide": "true_divide",
    "math.sigmoid": "sigmoid",
    "math.tanh": "tanh",
    "math.maximum": "maximum",
    "math.minimum": "minimum",
    "nn.bias_add": "add",
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.silu": "silu",
    "nn.swish": "silu",
    "nn.sigmoid": "sigmoid",
    "nn.softmax": "softmax",
    "nn.tanh": "tanh",
}


def settings_of_operation(config: dict[str, Any], name: str) -> tuple[str, dict[str, Any]] | None:
    """Return the function of ``keras.ops`` and its settings that a configuration describes; None where it is a layer.

    An ``.h5`` of Keras 3 leaves out the module, and ``Add`` is a layer and a function: layers say whether they train.
    """
    class_name, settings = config["class_name"], config.get("config")
    if not isinstance(settings, dict):
        return None
    if class_name == "SlicingOpLambda":
        return "get_item", {}
    if class_name == "TFOpLambda":
        return _tensorflow(str(settings.get("function")), name), {}
    module = str(config.get("module") or "")
    is_function = ".ops." in module if module else "trainable" not in settings and "dtype" not in settings
    if class_name == "Cast" and str(settings.get("dtype")).startswith(("float", "bfloat")):
        return "identity", {}
    if not is_function or class_name not in OPERATIONS:
        return None
    of_keras(config, name)
    kept = {str(key): plain(value, name, str(key)) for key, value in settings.items() if key not in ("name", "dtype")}
    return OPERATIONS[class_name], kept


def _tensorflow(function: str, name: str) -> str:
    if function == "cast":
        return "identity"
    if function not in TENSORFLOW:
        raise ModelFileError(
            f"layer {name!r} (TFOpLambda) calls TensorFlow's {function[:100]}, which is not among what is taken; use a "
            "layer of Keras for it (Rescaling, Concatenate, Reshape, GlobalAveragePooling2D) and save again, or save "
            "the model as a SavedModel"
        )
    return TENSORFLOW[function]


def scalar_arithmetic(
    operation: str, args: tuple[Any, ...], tensor_type: type
) -> tuple[Any, float | list[float], float | list[float]] | None:
    """Return (x, scale, offset) where the operation is ``x * scale + offset`` with constants, else None."""
    if len(args) != 2:
        return None
    swapped = isinstance(args[1], tensor_type)
    tensor, constant = args[::-1] if swapped else args
    numbers = constant if isinstance(constant, list) else [constant]
    while len(numbers) == 1 and isinstance(numbers[0], list):  # (1, 1, 1, 3) is for each channel, too
        numbers = numbers[0]
    if not isinstance(tensor, tensor_type) or not numbers or not all(map(_is_number, numbers)):
        return None
    inverse = operation in ("divide", "true_divide") and not swapped and 0 not in numbers
    forms = {
        "multiply": (lambda number: number, None),
        "add": (None, lambda number: number),
        "subtract": (lambda _: -1, lambda number: number) if swapped else (None, lambda number: -number),
        **({operation: (lambda number: 1 / number, None)} if inverse else {}),
    }
    if operation not in forms:
        return None
    scale, offset = forms[operation]
    return tensor, _each(numbers, scale, 1.0), _each(numbers, offset, 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _each(numbers: list[Any], change: Callable[[Any], Any] | None, otherwise: float) -> float | list[float]:
    if change is None:
        return otherwise
    changed = [float(change(number)) for number in numbers]
    return changed if len(changed) > 1 else changed[0]
