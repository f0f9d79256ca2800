"""Small CNNs of Keras that have, between them, every kind of layer a classifier for images is built of."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

SIDE = 16
CHANNELS = 12
CLASSES = 5

Value = Any


def convolve(value: Value, filters: int = CHANNELS, size: int = 3, **settings: Any) -> Value:
    return layers.Conv2D(filters, size, **{"padding": "same", **settings})(value)


def normalized(value: Value, activation: str = "relu") -> Value:
    return layers.Activation(activation)(layers.BatchNormalization()(value))


def squeezed(value: Value, gate: str) -> Value:
    channels = value.shape[-1]
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(value)
    inner = layers.Conv2D(4, 1, activation="relu")(pooled)
    return layers.Multiply()([value, layers.Conv2D(channels, 1, activation=gate)(inner)])


def separable(image: Value) -> Value:
    value = normalized(layers.SeparableConv2D(CHANNELS, 3, padding="same")(convolve(image)))
    return layers.Add()([value, layers.SeparableConv2D(CHANNELS, 3, padding="same")(value)])


def strided(image: Value) -> Value:
    value = layers.MaxPooling2D(2)(convolve(image, strides=2, padding="valid", activation="relu"))
    return convolve(layers.ZeroPadding2D(((1, 0), (0, 1)))(value), padding="valid", activation="relu")


def mobile(image: Value) -> Value:
    """Inverted residuals: ReLU6 behind a depthwise convolution with a BatchNorm of its own, a linear projection."""
    value = normalized(convolve(image), "relu6")
    inner = normalized(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(value), "relu6")
    return layers.Add()([layers.BatchNormalization()(convolve(inner, size=1)), value])


def hard(image: Value) -> Value:
    value = normalized(convolve(image), "hard_swish")
    value = normalized(layers.DepthwiseConv2D(3, strides=2, padding="same")(value), "hard_swish")
    return convolve(squeezed(value, "hard_sigmoid"), size=1)


def swish(image: Value) -> Value:
    value = normalized(layers.DepthwiseConv2D(3, padding="same")(normalized(convolve(image), "silu")), "silu")
    return layers.Add()([convolve(squeezed(value, "sigmoid"), size=1), value])


def preactivated(image: Value) -> Value:
    """ResNetV2: BatchNorm behind an addition and before a convolution, a pooled shortcut."""
    value = convolve(image)
    inner = convolve(normalized(convolve(normalized(value))))
    value = layers.Add()([value, inner])
    inner = convolve(normalized(value), strides=2)
    return normalized(layers.Add()([layers.MaxPooling2D(1, strides=2)(value), inner]))


def dense(image: Value) -> Value:
    """DenseNet: concatenations, each normalized anew, and an average pooling."""
    value = layers.MaxPooling2D(2)(layers.ZeroPadding2D(1)(convolve(image, activation="relu")))
    for _ in range(2):
        inner = convolve(normalized(convolve(normalized(value), 8, 1)), 4)
        value = layers.Concatenate()([value, inner])
    return normalized(layers.AveragePooling2D(2)(convolve(normalized(value), 8, 1)))


def convnext(image: Value) -> Value:
    """ConvNeXt: a depthwise convolution as one with groups, LayerNormalization, Dense layers on images, GELU."""
    value = layers.LayerNormalization(epsilon=1e-6)(convolve(image, size=4, strides=4, padding="valid"))
    inner = layers.LayerNormalization()(convolve(value, size=5, groups=CHANNELS))
    inner = layers.Dense(CHANNELS)(layers.Activation("gelu")(layers.Dense(24)(inner)))
    return layers.LayerNormalization(center=False)(layers.Add()([value, inner]))


def grouped(image: Value) -> Value:
    value = convolve(convolve(image, activation="relu"), groups=3, activation="relu")
    value = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu")(value)
    return convolve(value, dilation_rate=2, activation="relu")


def upsampled(image: Value) -> Value:
    small = convolve(image, strides=2, activation="relu")
    wide = layers.Conv2DTranspose(CHANNELS, 3, strides=2, padding="same", activation="relu")(small)
    return layers.Concatenate()([wide, convolve(layers.UpSampling2D(2, interpolation="bilinear")(small))])


def attending(image: Value) -> Value:
    """Attention: products of two activations, softmax, and Dense layers on rows of tokens."""
    value = layers.Reshape((16, CHANNELS))(convolve(image, size=4, strides=4, padding="valid"))
    inner = layers.MultiHeadAttention(2, 6)(value, value)
    value = layers.LayerNormalization()(layers.Add()([value, inner]))
    return layers.Reshape((4, 4, CHANNELS))(layers.Dense(CHANNELS, activation="gelu")(value))


def leaky(image: Value) -> Value:
    value = layers.LeakyReLU(0.2)(convolve(image))
    value = layers.PReLU(shared_axes=[1, 2])(convolve(layers.ELU()(convolve(value))))
    return layers.GroupNormalization(3)(layers.AveragePooling2D(3, strides=2, padding="same")(value))


def spatial(image: Value) -> Value:
    """A gate of one channel, spread over all of them by a product and by a sum."""
    value = convolve(image, activation="relu")
    gate = convolve(value, 1, 1, activation="sigmoid")
    return convolve(layers.Add()([layers.Multiply()([value, gate]), gate]), activation="tanh")


NETWORKS: dict[str, Callable[[Value], Value]] = {
    item.__name__: item
    for item in (
        separable,
        strided,
        mobile,
        hard,
        swish,
        preactivated,
        dense,
        convnext,
        grouped,
        upsampled,
        attending,
        leaky,
        spatial,
    )
}


def build_network(name: str, *, flat: bool = False) -> Any:
    """One of ``NETWORKS`` as an adopted model, image (N, 16, 16, 3) -> 5 classes; ``flat``: with Flatten and Dense."""
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    value = NETWORKS[name](image)
    if flat:
        value = layers.Dense(24, activation="relu")(layers.Flatten()(value))
    else:
        value = layers.GlobalAveragePooling2D()(value)
    logits = layers.Dense(CLASSES, name="logits")(value)
    return keras.Model(image, layers.Softmax(name="probabilities")(logits))
