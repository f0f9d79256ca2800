"""A full-size hybrid whose labels are real: trained convolutions, random LSTMs, a head fitted on real labels.

    python benchmarks/trained_standin.py RUN DATA OUT.keras

RUN is a run of hybrid-train on the same classes with an Xception of any size (``--image-size 71 --timesteps 71``: the
convolutions' shapes are the same at every size); DATA holds ``train`` and ``val`` class folders. Its convolutions go
into the reference hybrid, BatchNorm's statistics are re-estimated at the new size, and the head is fitted by logistic
regression on the product of the two branches' features. Training all of it at 299 x 299 takes hours an epoch on two
cores. The accuracy is what it is; but unlike labels that are Keras's own answers, real ones are lost and won by chance
alike, as with the models that users bring to the gate.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tensorflow as tf
import typer
from sklearn.linear_model import LogisticRegression
from support.models.standin import fill_recurrent

from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.runtime.spec import Backbone, ModelSpec
from hybrid_edge.train.backbones import BACKBONES
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model, save_model

Array = npt.NDArray[np.float32]
Images = Sequence[tuple[Path, int]]
BATCH, BATCH_PIXELS = 16, 2**20
STATISTICS, HEAD = 640, 1500  # make_cnn's images for each
STRENGTHS, DECIDED = (
    (0.002, 0.01, 0.05),
    0.25,
)  # of its logistic regression: C, the first with this mean top-1 probability
BLOCKS = 0.1  # of what a residual block is given is what it adds, before training


def main(
    run: Path, data: Path, out: Path, train: int = 5000, statistics: int = 640, strength: float = 0.02, seed: int = 0
) -> None:
    """Build it, save it as hybrid-train would, and print how well it does on the validation images."""
    small, trained = load_model(run / "model.keras")
    spec = ModelSpec(class_labels=trained.class_labels)
    keras.utils.set_random_seed(seed)
    model = build_model(spec, empty=True)
    model.get_layer("cnn").set_weights(small.get_layer("cnn").get_weights())
    fill_recurrent(model.get_layer("rnn"), seed)
    images = {part: sample(data / part, spec, count, seed) for part, count in (("train", train), ("val", sys.maxsize))}
    reestimate(model.get_layer("cnn"), spec, images["train"][:statistics])
    branches = {part: features(model, spec, images[part]) for part in images}
    products = {part: np.prod(found, axis=0) for part, found in branches.items()}
    labels = {part: np.array([label for _, label in images[part]]) for part in images}
    head = fit_head(products["train"], labels["train"], strength)
    model.get_layer("logits").set_weights(head)
    save_model(model, spec, out)
    for part in images:
        report(part, softmax(products[part] @ head[0] + head[1]), labels[part])
    cnn, rnn = branches["val"]
    own, other = ((cnn * np.roll(rnn, places, axis=0)) @ head[0] + head[1] for places in (0, 1))
    changed = np.mean(own.argmax(1) != other.argmax(1))
    print(f"another image's sequence changes {changed:.1%} of the labels")


def make_cnn(backbone: Backbone, size: str, data: str, out: str, *training: str) -> None:
    """Save a CNN alone, trained on so many images for epochs at pixels, its statistics and head fitted at its size."""
    count, epochs, pixels = map(int, training)
    folder, facts = Path(data) / "train", BACKBONES[backbone]
    labels = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    spec = ModelSpec(
        branches="cnn", backbone=backbone, image_size=int(size), scaling=facts.scaling, class_labels=labels
    )
    keras.utils.set_random_seed(0)
    model = build_model(spec)
    cnn = model.get_layer("cnn")
    scale_blocks(cnn)
    images = sample(folder, spec, count, seed=0)
    if epochs:
        small = spec.replace(image_size=min(pixels, spec.image_size))
        cnn.set_weights(trained_weights(small, images, epochs))
    reestimate(cnn, spec, images[:STATISTICS])
    images = images[:HEAD]
    run = tf.function(lambda image: cnn(image, training=False), reduce_retracing=True)
    found = np.concatenate([np.asarray(run(tensors["image"])) for tensors in tensors_of(spec, images)])
    answers = np.array([label for _, label in images])
    for strength in STRENGTHS:
        head = fit_head(found, answers, strength)
        decided = softmax(found @ head[0] + head[1])
        report(f"train, C {strength}", decided, answers)
        if decided.max(axis=1).mean() >= DECIDED:
            break
    model.get_layer("logits").set_weights(head)
    save_model(model, spec, Path(out))


def trained_weights(small: ModelSpec, images: Images, epochs: int) -> list[Array]:
    """Train a CNN at a small size, where an epoch takes seconds; convolutions have the same shapes at every size."""
    model = build_model(small)
    scale_blocks(model.get_layer("cnn"))
    # XLA takes minutes to compile it, and computes gradients of convolutions several times slower
    model.compile(
        keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )
    pixels = np.concatenate([tensors["image"] for tensors in tensors_of(small, images)])
    labels = np.array([label for _, label in images])
    model.fit(pixels, labels, batch_size=64, epochs=epochs, verbose=2)
    return list(model.get_layer("cnn").get_weights())


def sample(folder: Path, spec: ModelSpec, count: int, seed: int) -> Images:
    """So many of the images in class folders, in a random order."""
    found = [
        (path, label) for label, name in enumerate(spec.class_labels) for path in sorted((folder / name).iterdir())
    ]
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[place] for place in order]


def tensors_of(spec: ModelSpec, images: Images) -> Iterator[dict[str, Array]]:
    """Batches of the model's inputs."""
    preprocessor = Preprocessor(spec)
    # of small images, whose last layers are 2 x 2 pixels, a batch of few has too small a variance
    batch = max(BATCH, BATCH_PIXELS // spec.image_size**2)
    for start in range(0, len(images), batch):
        yield preprocessor([read_image(path) for path, _ in images[start : start + batch]])


def scale_blocks(cnn: Any) -> None:
    """Let each residual block add a little at first, as few epochs do not get there from elsewhere.

    ConvNeXt's begin at a millionth, with which the first layers alone are trained; those of ResNet add as much as they
    are given, and a chain of sixteen makes a thousand times as much of a rounding error.
    """
    for weight in cnn.weights:
        if "_layer_scale/" in weight.path:
            weight.assign(np.full(weight.shape, BLOCKS))
        elif weight.path.endswith("_3_conv/kernel"):
            weight.assign(weight * BLOCKS)


def reestimate(cnn: Any, spec: ModelSpec, images: Images) -> None:
    """BatchNorm's moving statistics become the plain mean of those of every batch."""
    norms = [layer for layer in cnn.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for number, tensors in enumerate(tensors_of(spec, images)):
        for layer in norms:
            layer.momentum = number / (number + 1)
        cnn(tensors["image"], training=True)


def features(model: Any, spec: ModelSpec, images: Images) -> Array:
    """What the two branches give on ONNX Runtime, (2, N, F): their product's two inputs."""
    graph = GraphBuilder(model, spec).build()
    products = [node for node in graph.graph.node if node.op_type == "Mul" and not node.name.startswith(("cnn", "rnn"))]
    (product,) = products
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in product.input
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(serialize(graph))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [session.run(list(product.input), tensors) for tensors in tensors_of(spec, images)]
    return np.stack([np.concatenate(branch) for branch in zip(*found, strict=True)])


def fit_head(products: Array, labels: npt.NDArray[np.int64], strength: float) -> list[Array]:
    """Kernel and bias of a logistic regression on centred features of a common scale, which is folded in.

    A scale for each feature would weigh up those that hardly vary, whose rounding errors then decide.
    """
    mean, deviation = products.mean(axis=0), products.std(axis=0).mean()
    fitted = LogisticRegression(C=strength, max_iter=300).fit((products - mean) / deviation, labels)
    kernel = fitted.coef_.T / deviation
    return [kernel.astype(np.float32), (fitted.intercept_ - mean @ kernel).astype(np.float32)]


def softmax(logits: Array) -> Array:
    """Probabilities."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def report(part: str, probabilities: Array, labels: npt.NDArray[np.int64]) -> None:
    """How right, how decided, and how varied the answers are."""
    answers = probabilities.argmax(axis=1)
    counts = np.bincount(answers, minlength=probabilities.shape[1])
    print(
        f"{part}: {np.mean(answers == labels):.1%} of {len(labels)} right, mean top-1 probability "
        f"{probabilities.max(axis=1).mean():.2f}, {np.count_nonzero(counts)} labels, the commonest for "
        f"{counts.max() / counts.sum():.1%}"
    )


if __name__ == "__main__":
    typer.run(main)
