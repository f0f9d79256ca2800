"""The facts about each backbone and recurrent cell that training and export go by; none of them needs TensorFlow.

Tests hold the counts against the models that Keras builds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runtime.spec import Backbone, ModelSpec, Scaling

GATES = {"lstm": 4, "gru": 3, "bilstm": 4}
GATE_BIASES = {"lstm": 1, "gru": 2, "bilstm": 1}  # Keras's GRU has one bias for its input and one for its state
MOBILENET_V2_SIZES = (96, 128, 160, 192, 224)  # pixels; Keras has ImageNet weights for each, and else takes the last


@dataclass(frozen=True)
class BackboneFacts:
    """What is known of a backbone without building it.

    Attributes:
        application: its name in ``keras.applications``, without its top layer; empty for the digits network, our own.
        scaling: what it wants to see, and what its ImageNet weights were trained with.
        image_size: the pixels that its ImageNet weights were trained at, and the default.
        timesteps: the default number of steps of the recurrent branch at that size, of whole rows.
        features: the width of its output, F.
        parameters: the number of its weights; the digits network's is that at ``image_size``.
        macs: the multiply-accumulates of its convolutions and matrix products for one image of ``image_size``.
        convolutions: how many convolutions it has; a separable one counts as two, a Dense layer on images as one.
        weights_file: the name of Keras's file of ImageNet weights without the top layer; ``{size}`` is the image's.
        scales_itself: whether Keras's model has the scaling inside, as layers that are left out here.
    """

    application: str
    scaling: Scaling
    image_size: int
    timesteps: int
    features: int
    parameters: int
    macs: int
    convolutions: int
    weights_file: str
    scales_itself: bool = False


_KERNELS = "weights_tf_dim_ordering_tf_kernels"
_V3 = "224_1.0_float_no_top_v2.h5"
BACKBONES: dict[Backbone, BackboneFacts] = {
    "xception": BackboneFacts(
        application="Xception",
        scaling="xception",
        image_size=299,
        timesteps=23,
        features=2048,
        parameters=20_861_480,
        macs=8_355_355_496,
        convolutions=74,
        weights_file=f"xception_{_KERNELS}_notop.h5",
    ),
    "mobilenet_v2": BackboneFacts(
        application="MobileNetV2",
        scaling="xception",
        image_size=224,
        timesteps=28,
        features=1280,
        parameters=2_257_984,
        macs=299_494_272,
        convolutions=52,
        weights_file=f"mobilenet_v2_{_KERNELS}_1.0_{{size}}_no_top.h5",
    ),
    "mobilenet_v3_small": BackboneFacts(
        application="MobileNetV3Small",
        scaling="xception",
        image_size=224,
        timesteps=28,
        features=576,
        parameters=939_120,
        macs=54_896_576,
        convolutions=52,
        weights_file=f"weights_mobilenet_v3_small_{_V3}",
        scales_itself=True,
    ),
    "mobilenet_v3_large": BackboneFacts(
        application="MobileNetV3Large",
        scaling="xception",
        image_size=224,
        timesteps=28,
        features=960,
        parameters=2_996_352,
        macs=214_080_960,
        convolutions=62,
        weights_file=f"weights_mobilenet_v3_large_{_V3}",
        scales_itself=True,
    ),
    "efficientnet_v2_b0": BackboneFacts(
        application="EfficientNetV2B0",
        scaling="torch",
        image_size=224,
        timesteps=28,
        features=1280,
        parameters=5_919_312,
        macs=716_806_176,
        convolutions=91,
        weights_file="efficientnetv2-b0_notop.h5",
        scales_itself=True,
    ),
    "resnet50_v2": BackboneFacts(
        application="ResNet50V2",
        scaling="xception",
        image_size=224,
        timesteps=28,
        features=2048,
        parameters=23_564_800,
        macs=3_480_207_360,
        convolutions=53,
        weights_file=f"resnet50v2_{_KERNELS}_notop.h5",
    ),
    "densenet121": BackboneFacts(
        application="DenseNet121",
        scaling="torch",
        image_size=224,
        timesteps=28,
        features=1024,
        parameters=7_037_504,
        macs=2_833_137_664,
        convolutions=120,
        weights_file=f"densenet121_{_KERNELS}_notop.h5",
    ),
    "convnext_tiny": BackboneFacts(
        application="ConvNeXtTiny",
        scaling="torch",
        image_size=224,
        timesteps=28,
        features=768,
        parameters=27_820_128,
        macs=4_454_763_264,
        convolutions=58,
        weights_file="convnext_tiny_notop.h5",
        scales_itself=True,
    ),
    "digits": BackboneFacts(
        application="",
        scaling="xception",
        image_size=28,
        timesteps=28,
        features=128,
        parameters=355_520,
        macs=8_164_864,
        convolutions=3,
        weights_file="",
    ),
}


def weights_file(backbone: Backbone, image_size: int) -> str:
    """Return the name of Keras's file of ImageNet weights, without the top layer, for images of a size in pixels."""
    size = image_size if image_size in MOBILENET_V2_SIZES else MOBILENET_V2_SIZES[-1]
    return BACKBONES[backbone].weights_file.format(size=size)


def recurrent_width(spec: ModelSpec) -> int:
    """Return the width of the last recurrent layer's output: both directions of a bidirectional one side by side."""
    return spec.rnn_units * _directions(spec)


def projected_width(spec: ModelSpec) -> int | None:
    """Return the width that the recurrent branch is projected to before it meets the CNN; None where it isn't.

    A product or a sum needs branches of the same width, a concatenation does not.
    """
    features = BACKBONES[spec.backbone].features
    if spec.branches != "hybrid" or spec.merge == "concatenate" or recurrent_width(spec) == features:
        return None
    return features


def layer_weights(spec: ModelSpec) -> list[tuple[int, int]]:
    """Return for each recurrent layer and direction how many weights its input has, and how many its state.

    Biases are left out.
    """
    columns = GATES[spec.cell] * spec.rnn_units
    inputs = [spec.sequence_shape[1], *[recurrent_width(spec)] * (spec.rnn_layers - 1)]
    return [(width * columns, spec.rnn_units * columns) for width in inputs for _ in range(_directions(spec))]


def _directions(spec: ModelSpec) -> int:
    return 2 if spec.cell == "bilstm" else 1


def count_parameters(spec: ModelSpec) -> int:
    """Count the weights of the model that ``build_model`` makes of a spec, those that don't train included."""
    return cnn_parameters(spec) + recurrent_parameters(spec) + (_head_width(spec) + 1) * spec.num_classes


def cnn_parameters(spec: ModelSpec) -> int:
    """Count the CNN branch's weights; 0 where the model has none."""
    facts = BACKBONES[spec.backbone]
    if not spec.uses_cnn:
        return 0
    if spec.backbone != "digits":
        return facts.parameters
    return facts.parameters + facts.features * (_digits_pixels(spec.image_size) - _digits_pixels(facts.image_size))


def _digits_pixels(image_size: int) -> int:
    """Return how many values reach the digits network's Dense layer, behind three poolings that round up."""
    return 128 * math.ceil(image_size / 8) ** 2


def recurrent_parameters(spec: ModelSpec) -> int:
    """Count the recurrent branch's weights, with its batch normalization and projection; 0 where there is no branch."""
    if not spec.uses_rnn:
        return 0
    width, projected = recurrent_width(spec), projected_width(spec)
    biases = GATE_BIASES[spec.cell] * GATES[spec.cell] * spec.rnn_units
    layers = sum(inputs + states + biases for inputs, states in layer_weights(spec))
    norm = 4 * width if spec.rnn_batch_norm else 0
    return layers + norm + (projected * (width + 1) if projected else 0)


def _head_width(spec: ModelSpec) -> int:
    """Return the width of what the head gets: of the branches' product, sum or concatenation, or of the only one."""
    features = BACKBONES[spec.backbone].features if spec.uses_cnn else 0
    if not spec.uses_rnn:
        return features
    width = recurrent_width(spec)
    if spec.branches == "rnn":
        return width
    return features + width if spec.merge == "concatenate" else features
