"""Model files that nobody should open: each would run something, fill the memory or read another file."""

from __future__ import annotations

import base64
import json
import marshal
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CANARY = Path(tempfile.gettempdir()) / f"hybrid_edge_canary_{os.getpid()}"  # what runs would leave it there

Layer = dict[str, Any]


def layer(class_name: str, **config: Any) -> Layer:
    """One layer of a configuration of Keras 3, of Keras's own unless ``config`` says another module."""
    about = {key: config.pop(key, value) for key, value in (("module", "keras.layers"), ("registered_name", None))}
    return {"class_name": class_name, "config": {"name": class_name.lower(), **config}, **about}


def image(shape: tuple[int | None, ...] = (None, 8, 8, 3)) -> Layer:
    return layer("InputLayer", batch_shape=list(shape), dtype="float32")


def chain(*layers: Layer) -> Layer:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "chain", "layers": list(layers)}}


def tensor(name: str) -> dict[str, Any]:
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": [], "dtype": "float32", "keras_history": [name, 0, 0]},
    }


def graph(layers: list[tuple[Layer, list[Any]]], inputs: list[str], outputs: list[str]) -> Layer:
    """A functional model: each layer with the arguments of its one call."""
    listed = [
        {**made, "name": made["config"]["name"], "inbound_nodes": [{"args": args, "kwargs": {}}] if args else []}
        for made, args in layers
    ]
    ends = {"input_layers": [[name, 0, 0] for name in inputs], "output_layers": [[name, 0, 0] for name in outputs]}
    return {"module": "keras", "class_name": "Functional", "config": {"name": "graph", "layers": listed, **ends}}


def weights(path: Path, **arrays: Any) -> bytes:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"layers/{name}/vars/0", data=array)
    return path.read_bytes()


def keras3(path: Path, config: Any, stored: bytes | None = None, **members: bytes) -> Path:
    """Write a .keras archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", config if isinstance(config, str | bytes) else json.dumps(config))
        archive.writestr("model.weights.h5", weights(path.with_suffix(".tmp")) if stored is None else stored)
        with warnings.catch_warnings(action="ignore"):  # of a name that is there twice
            for name, content in members.items():
                archive.writestr(name, content)
    return path


def keras2(path: Path, config: Any, change: Callable[[h5py.File], None] | None = None) -> Path:
    """Write an .h5 as Keras 2 does, without its layers' arrays."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps(config)
        file.create_group("model_weights").attrs["layer_names"] = np.array([], "S1")
        if change is not None:
            change(file)
    return path


def code() -> str:
    """Python's code that leaves the canary, as Keras puts it into a file."""
    function = compile(f"lambda value: open({str(CANARY)!r}, 'w')", "x", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(function)).decode()


class Runs:
    """Pickled, it leaves the canary when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (CANARY,)


def bomb(path: Path) -> Path:
    """256 MiB of zeros as weights, in 256 KB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(chain(image(), layer("Flatten"))))
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(16):
                member.write(bytes(2**24))
    return path


def directory(path: Path) -> Path:
    """An archive of 25,000 members, of which Python would make an object each."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(25_000):
            archive.writestr(f"{number}", b"")
    return path


LAMBDA = {"class_name": "__lambda__", "config": {"code": code(), "defaults": None, "closure": None}}
DENSE = layer("Dense", units=4)
ROWS = (image(), layer("Reshape", target_shape=[8, 24]))
OLD_LAMBDA = {"class_name": "Lambda", "config": {"name": "evil", "function": [code(), None, None]}}
OLD_IMAGE = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 8, 8, 3], "name": "image"}}


def old(*layers: Any) -> Layer:
    return {"class_name": "Sequential", "config": {"name": "old", "layers": [OLD_IMAGE, *layers]}}


def huge_array(file: h5py.File) -> None:
    file.create_dataset("model_weights/huge", (2**20, 2**20), "float32", chunks=(2**8, 2**8))


def huge_packed(file: h5py.File) -> None:
    zeros = np.zeros((2**24,), "float32")
    file.create_dataset("model_weights/zeros", data=zeros, compression="gzip", chunks=(2**24,))


def outside(file: h5py.File) -> None:
    file["model_weights/other"] = h5py.ExternalLink("/etc/passwd", "/")


def stored_outside(file: h5py.File) -> None:
    file.create_dataset("model_weights/other", (4,), "float32", external=[("/etc/passwd", 0, 16)])


def loop(file: h5py.File) -> None:
    file["model_weights/again"] = file["model_weights"]


def deep(file: h5py.File) -> None:
    file.create_group("/".join(["model_weights", *["x"] * 200]))


def objects(file: h5py.File) -> None:
    file.create_dataset("model_weights/objects", (4,), h5py.special_dtype(vlen=bytes))


def foreign_filter(file: h5py.File) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((4,))
    settings.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((4,))
    group = file["model_weights"].id
    h5py.h5d.create(group, b"strange", h5py.h5t.NATIVE_FLOAT, space, dcpl=settings)


def long_text(file: h5py.File) -> None:
    file.attrs["model_config"] = "[" * 2**22 + "]" * 2**22 + " " * 100


def without_config(file: h5py.File) -> None:
    del file.attrs["model_config"]


def no_text(file: h5py.File) -> None:
    file.attrs["model_config"] = np.zeros((50, 50))


def _trained() -> dict[str, Any]:
    config = graph([(image(), []), (DENSE, [tensor("inputlayer")])], ["inputlayer"], ["dense"])["config"]
    config["layers"][1]["inbound_nodes"][0]["kwargs"] = {"training": True}
    return config


def _archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _numpy(path: Path) -> Path:
    config = json.dumps(chain(image(), layer("Flatten"))).encode()
    return _archive(path, {"config.json": config, "metadata.json": b"{}", "model.weights.npz": pickle.dumps(Runs())})


# name of the case -> what writes the file, and what its refusal says
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "lambda.keras": (
        lambda p: keras3(p, chain(image(), layer("Lambda", function=LAMBDA))),
        r"'lambda' \(Lambda\).*Resc",
    ),
    "lambda.h5": (lambda p: keras2(p, old(OLD_LAMBDA)), r"'evil' \(Lambda\)"),
    "lambda_inside.keras": (
        lambda p: keras3(p, chain(image(), layer("TimeDistributed", layer=layer("Lambda", function=LAMBDA)))),
        r"'lambda' \(Lambda\)",
    ),
    "lambda_as_activation.keras": (
        lambda p: keras3(p, chain(image(), layer("Dense", units=1, activation=LAMBDA))),
        "'dense'.*activation",
    ),
    "lambda_as_setting.keras": (
        lambda p: keras3(p, chain(image(), layer("Reshape", target_shape=LAMBDA))),
        "'reshape'",
    ),
    "lambda_as_argument.keras": (
        lambda p: keras3(p, graph([(image(), []), (DENSE, [tensor("inputlayer"), LAMBDA])], ["inputlayer"], ["dense"])),
        "'dense': an argument",
    ),
    "custom_layer.keras": (
        lambda p: keras3(p, chain(image(), layer("Mine", module="os", registered_name="mine>Mine"))),
        "'mine'.*not one of",
    ),
    "own_dense.keras": (
        lambda p: keras3(p, chain(image(), layer("Dense", units=1, registered_name="mine>Dense"))),
        "'dense'.*'mine>Dense'",
    ),
    "other_module.keras": (
        lambda p: keras3(p, chain(image(), layer("Dense", units=1, module="os.path"))),
        "'dense'.*'os.path'",
    ),
    "custom_activation.h5": (
        lambda p: keras2(p, old({"class_name": "Dense", "config": {"name": "d", "units": 1, "activation": "mine"}})),
        "'d'.*'mine'",
    ),
    "function.keras": (
        lambda p: keras3(
            p,
            chain(
                image(),
                layer(
                    "Dense",
                    units=1,
                    activation={
                        "module": "os",
                        "class_name": "function",
                        "config": "system",
                        "registered_name": "system",
                    },
                ),
            ),
        ),
        "'dense'.*'system'",
    ),
    "keras_function.keras": (
        lambda p: keras3(p, chain(image(), layer("get_file", module="keras.utils"))),
        "'get_file'",
    ),
    "custom_model.keras": (
        lambda p: keras3(p, layer("MyModel", module="mine", registered_name="mine>MyModel")),
        "MyModel.*SavedModel",
    ),
    "saved_model_layer.keras": (
        lambda p: keras3(p, chain(image(), layer("TFSMLayer", filepath="x"))),
        "TFSMLayer",
    ),
    "torch.keras": (
        lambda p: keras3(p, chain(image(), layer("TorchModuleWrapper", module="keras.layers"))),
        "TorchModule",
    ),
    "jax.keras": (lambda p: keras3(p, chain(image(), layer("JaxLayer"))), "JaxLayer"),
    "text.keras": (lambda p: keras3(p, chain(image(), layer("TextVectorization"))), "words"),
    "convlstm.keras": (lambda p: keras3(p, chain(image(), layer("ConvLSTM2D", filters=2))), "ConvLSTM2D.*LSTM"),
    "two_inputs.keras": (
        lambda p: keras3(
            p,
            graph(
                [
                    (image(), []),
                    ({**image(), "config": {"name": "b", "batch_shape": [None, 2]}}, []),
                    (DENSE, [tensor("b")]),
                ],
                ["inputlayer", "b"],
                ["dense"],
            ),
        ),
        "2 inputs",
    ),
    "two_outputs.keras": (
        lambda p: keras3(
            p, graph([(image(), []), (DENSE, [tensor("inputlayer")])], ["inputlayer"], ["dense", "inputlayer"])
        ),
        "2 outputs",
    ),
    "wide_dense.keras": (lambda p: keras3(p, chain(image(), layer("Dense", units=2**31))), "'dense': units"),
    "wide_image.keras": (lambda p: keras3(p, chain(image((None, 2**20, 2**20, 3)))), "expected images"),
    "image_of_2_40.h5": (
        lambda p: keras2(
            p,
            {
                "class_name": "Sequential",
                "config": {
                    "name": "s",
                    "layers": [
                        {"class_name": "Dense", "config": {"name": "d", "units": 2, "batch_input_shape": [None, 2**40]}}
                    ],
                },
            },
        ),
        "1099511627776",
    ),
    "array_of_2_40.h5": (lambda p: keras2(p, old(), huge_array), "claims the shape"),
    "packed.h5": (lambda p: keras2(p, old(), huge_packed), "claims the shape"),
    "external_link.h5": (lambda p: keras2(p, old(), outside), "links elsewhere"),
    "external_storage.h5": (lambda p: keras2(p, old(), stored_outside), "stored outside"),
    "loop.h5": (lambda p: keras2(p, old(), loop), "links elsewhere in the file"),
    "deep.h5": (lambda p: keras2(p, old(), deep), "groups deep"),
    "objects.h5": (lambda p: keras2(p, old(), objects), "no array of numbers"),
    "filter.h5": (lambda p: keras2(p, old(), foreign_filter), "packed by a library"),
    "brackets.h5": (lambda p: keras2(p, old(), long_text), "longer than|nested"),
    "weights_alone.h5": (lambda p: keras2(p, old(), without_config), "weights and no model.*model.save"),
    "config_of_numbers.h5": (lambda p: keras2(p, old(), no_text), "no text"),
    "bomb.keras": (bomb, "unpacks from"),
    "long_config.keras": (lambda p: keras3(p, b"[" + b"0," * 2**22 + b"0]"), "unpacks from|longer"),
    "nested.keras": (lambda p: keras3(p, b"[" * 500 + b"]" * 500), "nested 500 deep"),
    "directory.keras": (directory, "very many members"),
    "twice.keras": (lambda p: keras3(p, chain(image()), **{"config.json": b"{}"}), "one config.json"),
    "assets.keras": (lambda p: keras3(p, chain(image()), **{"assets/words.txt": b""}), "assets"),
    "numpy.keras": (_numpy, "one model.weights.h5"),
    "cut_off.keras": (lambda p: p.write_bytes(keras3(p, chain(image())).read_bytes()[:-30]) and p, "no end"),
    "pickle.keras": (lambda p: p.write_bytes(pickle.dumps(Runs())) and p, "pickle"),
    "torch.pt": (lambda p: _archive(p, {"archive/data.pkl": pickle.dumps(Runs())}), "pickle of PyTorch"),
    "empty.h5": (lambda p: p.write_bytes(b"") or p, "begins with b''"),
    "tflite.keras": (lambda p: p.write_bytes(b"\x1c\0\0\0TFL3") and p, "Lite"),
    "training.keras": (
        lambda p: keras3(
            p,
            graph([(image(), []), ({**DENSE}, [tensor("inputlayer")])], ["inputlayer"], ["dense"])
            | {"config": _trained()},
        ),
        "training=True",
    ),
    "channels_first.keras": (
        lambda p: keras3(p, chain(image(), layer("Conv2D", filters=1, kernel_size=1, data_format="channels_first"))),
        "channels_last",
    ),
    "stateful.keras": (lambda p: keras3(p, chain(*ROWS, layer("LSTM", units=2, stateful=True))), "stateful"),
    "not_an_image.keras": (lambda p: keras3(p, chain(image((None, 784)), DENSE)), "expected images"),
    "no_size.keras": (lambda p: keras3(p, chain(DENSE)), "does not say the size"),
    "no_model.keras": (lambda p: keras3(p, DENSE), "single layer"),
    "no_layers.keras": (lambda p: keras3(p, chain()), "list of layers"),
    "malformed.keras": (
        lambda p: keras3(p, {"class_name": "Functional", "config": {"layers": [1]}}),
        "expected a layer",
    ),
}
