"""Which layers of Keras are taken, and their settings as plain numbers and words; what could be code is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import ModelFileError


def words(text: str) -> frozenset[str]:
    """Return the words of a text, for long lists of names."""
    return frozenset(text.split())


LARGEST = 2**28  # of any whole number in a configuration; weights and outputs of more elements are no edge model's
MAX_WORD = 1000  # characters
MODULES = re.compile(r"^((tf_)?keras|tensorflow(\.python)?\.keras)(\.[a-z0-9_]+)*$")
ALIASES = {
    "Model": "Functional",  # Keras before 2.4
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution1DTranspose": "Conv1DTranspose",
    "Convolution2DTranspose": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "GroupedQueryAttention": "GroupQueryAttention",
    "AvgPool2D": "AveragePooling2D",
    "MaxPool2D": "MaxPooling2D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D",
}
TAKEN = words(
    """
    Functional Sequential InputLayer Activation ELU LeakyReLU PReLU ReLU Softmax AdditiveAttention Attention
    GroupQueryAttention MultiHeadAttention Conv1D Conv1DTranspose Conv2D Conv2DTranspose DepthwiseConv1D
    DepthwiseConv2D SeparableConv1D SeparableConv2D Dense EinsumDense Identity Add Average Concatenate Dot
    Maximum Minimum Multiply Subtract BatchNormalization GroupNormalization LayerNormalization RMSNormalization
    UnitNormalization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D AveragePooling1D AveragePooling2D GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalMaxPooling1D GlobalMaxPooling2D MaxPooling1D MaxPooling2D CenterCrop Resizing Normalization Rescaling
    Cropping1D Cropping2D Flatten Permute RepeatVector Reshape UpSampling1D UpSampling2D ZeroPadding1D
    ZeroPadding2D Bidirectional GRU LSTM TimeDistributed Dropout AlphaDropout GaussianDropout GaussianNoise
    SpatialDropout1D SpatialDropout2D LayerScale
    """
)
# in training these change or count, in inference they hand on what they are given
IDLE = words(
    """
    ActivityRegularization AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration
    RandomColorJitter RandomContrast RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHeight RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomWidth RandomZoom
    StochasticDepth
    """
)
# their calls say training=True in a file of Keras 3, which means nothing
INDIFFERENT = IDLE | {"Resizing", "CenterCrop", "Rescaling", "Normalization"}
ACTIVATION_LAYERS = ("LeakyReLU", "ReLU", "ELU", "Softmax")  # as the activation of another
TEXT = "it reads words, not images"
TRAIN_AGAIN = "build the model with LSTM, GRU or Bidirectional of them, and train it so"
REFUSED = {
    "Lambda": "it holds code of its author. Replace it by Rescaling or another layer of Keras, and save again",
    "TFSMLayer": "it loads another file. Give that SavedModel itself",
    "TorchModuleWrapper": "it holds a pickled model of PyTorch, which can run anything",
    "JaxLayer": "it holds code. Export the model: model.export(FOLDER), and give the folder",
    "FlaxLayer": "it holds code. Export the model: model.export(FOLDER), and give the folder",
    **dict.fromkeys(("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing"), TEXT),
    **dict.fromkeys(("CategoryEncoding", "Embedding", "Discretization", "ReversibleEmbedding"), TEXT),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), f"it can't be converted; {TRAIN_AGAIN}"),
    **dict.fromkeys(("SimpleRNN", "RNN", "StackedRNNCells"), f"it can't be converted; {TRAIN_AGAIN}"),
    **dict.fromkeys(
        ("CuDNNLSTM", "CuDNNGRU"),
        "its weights lie in another order. Load it in a Keras 2 of before 2.16, "
        "give its weights to an LSTM or GRU, and save again",
    ),
    "Masking": "an image has no steps to mask. Build the model without it, give it these weights, and save again",
}
ACTIVATIONS = words(
    """
    linear relu relu6 elu selu celu gelu glu silu swish mish softplus softsign sigmoid hard_sigmoid hard_silu
    hard_swish hard_tanh tanh tanh_shrink hard_shrink soft_shrink threshold squareplus exponential leaky_relu
    log_sigmoid log_softmax softmax sparsemax
    """
)
# what training needs, what says how and not what is computed, and what is worked out anew
DROPPED = words(
    """
    dtype seed seed_generator rng_type activity_regularizer batch_input_shape batch_shape input_shape
    implementation use_cudnn unroll ragged sparse optional trainable query_shape key_shape value_shape
    init_values flash_attention unit_forget_bias dropout_seed autocast input_dim input_length lora_alpha fused
    virtual_batch_size adjustment softmax_robust_masking
    """
)
RECURRENT = ("LSTM", "GRU")


@dataclass(frozen=True)
class CleanLayer:
    """A class of ``keras.layers`` and the arguments that it is made with."""

    class_name: str
    settings: dict[str, Any]


def excerpt(value: Any) -> str:
    """Return the beginning of a value of the file, for a message."""
    text = repr(value)[:80]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def of_keras(config: dict[str, Any], name: str) -> None:
    """Refuse a layer or function that says it is of another package than Keras."""
    class_name, module, registered = (config.get(key) for key in ("class_name", "module", "registered_name"))
    if (module is not None and not MODULES.match(str(module))) or registered not in (None, "", class_name):
        raise ModelFileError(
            f"layer {name!r} ({excerpt(class_name)} of {excerpt(registered or module)}) is not one of Keras's own, and "
            "its code is not in the file. Replace it by layers of Keras and save again, or save the whole model as a "
            "SavedModel: model.export(FOLDER)"
        )


def layer_class(config: dict[str, Any], name: str, *, old: bool) -> str:
    """Return the class of Keras's own that a layer is of; ``Functional`` or ``Sequential`` for a model.

    Raises:
        ModelFileError: it is not of Keras, or is of Keras and not taken; the message names it and what would help.
    """
    given = str(config["class_name"])
    if given in REFUSED:
        raise ModelFileError(f"layer {name!r} ({given}) is refused: {REFUSED[given]}")
    of_keras(config, name)
    class_name = ALIASES.get(given, given)
    if class_name in TAKEN or class_name in IDLE:
        return class_name
    writer = "Keras 2" if old else "Keras"
    raise ModelFileError(
        f"layer {name!r} is a {given[:100]!r}, which is not one of the layers of {writer} that are taken; it is "
        "custom, or not for images. Replace it by layers such as Conv2D, Dense, LSTM or GRU and save again, or save "
        "the whole model as a SavedModel: model.export(FOLDER)"
    )


def clean_settings(class_name: str, settings: dict[str, Any], name: str, *, old: bool) -> CleanLayer:
    """Return what a layer is made with: its settings without those for training, as numbers, words and lists.

    Raises:
        ModelFileError: a setting is an object, a function that is not Keras's, absurdly large, or can't be converted.
    """
    if class_name in IDLE:
        return CleanLayer("Identity", {"name": name})
    _refuse_settings(class_name, settings, name)
    if class_name == "InputLayer":
        return CleanLayer(class_name, {"name": name, "shape": _input_shape(settings, name)})
    cleaned = {"name": name}
    for key, value in settings.items():
        if key in DROPPED or key.endswith(("_initializer", "_regularizer", "_constraint")) or key == "name":
            continue
        if key in ("activation", "recurrent_activation"):
            cleaned[key] = _activation(value, name, old=old)
        else:
            cleaned[key] = plain(value, name, key)
    _translate(class_name, cleaned)
    return CleanLayer(class_name, cleaned)


def plain(value: Any, name: str, key: str, depth: int = 0) -> Any:
    """Return a value as None, a truth, a number, a word or a list of these; anything else is refused."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise ModelFileError(f"layer {name!r}: {key} is {excerpt(value)}; expected at most {LARGEST}")
        return value
    if isinstance(value, str) and len(value) <= MAX_WORD:
        return value
    if isinstance(value, list) and depth < 8:
        return [plain(item, name, key, depth + 1) for item in value]
    if isinstance(value, dict) and value.get("class_name") in ("__tuple__", "TensorShape"):
        return plain(value["items"], name, key, depth + 1)
    if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
        return plain(value["config"]["value"], name, key, depth + 1)
    raise ModelFileError(
        f"layer {name!r}: {key} is {excerpt(value)}; expected numbers and words. An object of its author's can't be "
        "taken: use a layer of Keras in its place"
    )


def _refuse_settings(class_name: str, settings: dict[str, Any], name: str) -> None:
    """Refuse settings of a layer that is taken, with which it can't be converted."""
    dtype = settings.get("dtype")
    policy = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    quantized = settings.get("quantization_config") is not None or (isinstance(policy, str) and "_from_" in policy)
    reasons = {
        "its weights were quantized by Keras; give the model of before that": quantized,
        "channels_first runs on no CPU; build the model with channels_last, give it these weights, and save again": (
            settings.get("data_format") == "channels_first"
        ),
        "stateful: it keeps what earlier images left; build it with stateful=False": bool(settings.get("stateful")),
        "return_state: several outputs; build it without": bool(settings.get("return_state")),
        "time_major: its first axis is not the batch; build it without": bool(settings.get("time_major")),
        "renorm is not in Keras 3; build it without": bool(settings.get("renorm")),
        "groups, which Keras 3 has for plain convolutions alone": (
            class_name.startswith(("Depthwise", "Separable")) or class_name.endswith("Transpose")
        )
        and settings.get("groups", 1) != 1,
        "sparse or ragged input": bool(settings.get("sparse")) or bool(settings.get("ragged")),
        "an input of words": class_name == "InputLayer" and policy == "string",
    }
    for reason, found in reasons.items():
        if found:
            raise ModelFileError(f"layer {name!r} ({class_name}) is refused: {reason}")


def _activation(value: Any, name: str, *, old: bool) -> str:
    """Return the name of one of Keras's activations."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        of_keras({**value, "class_name": value.get("registered_name"), "module": _public(value.get("module"))}, name)
        value = value.get("config")
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "activation" in value["config"]:
        value = value["config"]["activation"]  # an Activation layer, as which Keras 2 writes some
    if value is None:
        return "linear"
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ModelFileError(
            f"layer {name!r}: its activation is {excerpt(value)}, which is not one of Keras's; expected one such as "
            "relu, swish or gelu. A function of its author's can't be taken: put a layer of Keras behind it"
        )
    if old and value == "hard_sigmoid":
        raise ModelFileError(
            f"layer {name!r}: hard_sigmoid is clip(x / 5 + 0.5) in Keras 2, and since then clip(x / 6 + 0.5). Train it "
            "with sigmoid, which an LSTM or GRU has by default since Keras 2.3"
        )
    return value


def _public(module: Any) -> Any:
    return None if module == "builtins" else module


def _input_shape(settings: dict[str, Any], name: str) -> list[int | None]:
    shape = settings.get("batch_shape", settings.get("batch_input_shape"))
    cleaned = plain(shape, name, "its shape")
    if not isinstance(cleaned, list) or not all(size is None or isinstance(size, int) for size in cleaned):
        raise ModelFileError(f"layer {name!r} (InputLayer): expected a shape, found {excerpt(shape)}")
    return cleaned[1:]


def _translate(class_name: str, settings: dict[str, Any]) -> None:
    """Turn the settings of Keras 2 into those of Keras 3, and leave out those that say nothing."""
    for key in ("time_major", "stateful", "return_state", "renorm", "quantization_config", "lora_rank"):
        settings.pop(key, None)
    if class_name.startswith(("Depthwise", "Separable")) or class_name.endswith("Transpose"):
        settings.pop("groups", None)
    axis = settings.get("axis")
    if isinstance(axis, list) and len(axis) == 1 and class_name == "BatchNormalization":
        settings["axis"] = axis[0]
    if class_name == "LeakyReLU" and "alpha" in settings:
        settings["negative_slope"] = settings.pop("alpha")
    if class_name in RECURRENT:
        settings.update(dropout=0.0, recurrent_dropout=0.0)  # of training; they'd need random numbers' state
    if class_name == "GRU":
        settings.setdefault("reset_after", False)  # Keras before 2.1 had no other
