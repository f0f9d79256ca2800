"""Model files that declare more than they hold, or point elsewhere, are refused before a value is read."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
keras = pytest.importorskip("keras")

from support.models.hostile_files import DENSE, ROWS, chain, image, keras3, layer

from hybrid_edge.export.adopt.load_keras import load_keras
from hybrid_edge.export.adopt.model_files import inspect_file
from hybrid_edge.runtime.errors import ModelFileError, WeightsError
from hybrid_edge.runtime.process import peak_mib
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import WEIGHTS_MEMBER, load_model, load_pretrained, save_model

SPEC = preset("digits").replace(class_labels=("left", "right"), rnn_units=8)
GIANT = (2**29,)  # of float32, 2 GiB
SPARE = 300  # MiB that refusing may take

Change = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(SPEC)


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    save_model(model, SPEC, path)
    return path


@pytest.fixture(autouse=True)
def little_memory() -> Any:
    before = peak_mib()
    yield
    assert peak_mib() - before < SPARE


def never_written(file: Any, name: str) -> None:
    file.create_dataset(name, GIANT, "float32", chunks=(2**20,), compression="gzip")


def never_allocated(file: Any, name: str) -> None:
    file.create_dataset(name, GIANT, "float32")


def one_chunk(file: Any, name: str) -> None:
    file.create_dataset(name, GIANT, "float32", chunks=(2**16,))[:4] = 1


def zeros_packed(file: Any, name: str) -> None:
    file.create_dataset(name, data=np.zeros(2**23, np.float32), chunks=(2**23,), compression="gzip")


def one_number_many_times(file: Any, name: str) -> None:
    layout = h5py.VirtualLayout(GIANT, "float32")
    layout[:4] = h5py.VirtualSource(".", "nowhere", shape=(4,))
    file.create_virtual_dataset(name, layout)


def another_shape(file: Any, name: str) -> None:
    file.create_dataset(name, data=np.ones((100, 100), np.float32))


def link_out(file: Any, name: str) -> None:
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def link_inside(file: Any, name: str) -> None:
    file[name] = h5py.SoftLink("/")


def stored_outside(file: Any, name: str) -> None:
    file.create_dataset(name, (4,), "float32", external=[("/etc/passwd", 0, 16)])


BOMBS = [never_written, never_allocated, one_chunk, zeros_packed, one_number_many_times, another_shape]
POINTERS = [link_out, link_inside, stored_outside]
REFUSAL = r"claims the shape|has the shape|stored outside|links elsewhere"


def arrays(file: Any) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def changed(path: Path, change: Change, which: int) -> Path:
    """Put something else in the place of one of the arrays of an .h5."""
    with h5py.File(path, "r+") as file:
        name = arrays(file)[which]
        del file[name]
        change(file, name)
    return path


@pytest.mark.parametrize("which", [0, 5, -1])
@pytest.mark.parametrize("change", [*BOMBS, *POINTERS])
def test_a_model_of_ours_with_such_an_array_is_refused(saved: Path, tmp_path: Path, change: Change, which: int) -> None:
    with zipfile.ZipFile(saved) as archive:
        archive.extract(WEIGHTS_MEMBER, tmp_path)
        members = {name: archive.read(name) for name in archive.namelist() if name != WEIGHTS_MEMBER}
    changed(tmp_path / WEIGHTS_MEMBER, change, which)
    with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / WEIGHTS_MEMBER, WEIGHTS_MEMBER)
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelFileError, match=f"{REFUSAL}|weights unpack to"):
        load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("change", [*BOMBS, *POINTERS])
def test_weights_for_a_training_with_such_an_array_are_refused(model: Any, tmp_path: Path, change: Change) -> None:
    path = tmp_path / "cnn.weights.h5"
    model.get_layer("cnn").save_weights(path)
    changed(path, change, 0)
    with pytest.raises(WeightsError, match=f"({REFUSAL}).*--weights none"):
        load_pretrained(build_model(SPEC), SPEC, str(path))


LAYERS = {
    "dense": (layer("Flatten"), DENSE),
    "convolution": (layer("Conv2D", filters=4, kernel_size=3), layer("Flatten"), DENSE),
    "lstm": (*ROWS[1:], layer("LSTM", units=4), DENSE),
    "normalized": (layer("SeparableConv2D", filters=4, kernel_size=3), layer("BatchNormalization"), layer("Flatten")),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("change", BOMBS)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_somebody_elses_model_with_such_an_array_is_refused(
    tmp_path: Path, kind: str, change: Change, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    recipe = inspect_file(keras3(tmp_path / "empty.keras", chain(image(), *LAYERS[kind]))).recipe
    assert recipe is not None
    from hybrid_edge.export.adopt.build_layers import build_from_recipe

    build_from_recipe(recipe).save(path)
    if suffix == ".h5":
        changed(path, change, 0)
    else:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
            archive.extract(WEIGHTS_MEMBER, tmp_path)
        keras3(path, config, changed(tmp_path / WEIGHTS_MEMBER, change, 0).read_bytes())
    with pytest.raises(ModelFileError, match=f"{REFUSAL}|expected arrays of the shapes"):
        load_keras(path, inspect_file(path))


def test_three_thousand_small_claims_are_refused_as_one_large_one_is(tmp_path: Path) -> None:
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for number in range(3000):  # each a MiB, which one may claim alone
            file.create_dataset(f"model_weights/{number}", (2**18,), "float32", chunks=(2**18,), compression="gzip")
        file.attrs["model_config"] = "{}"
    with pytest.raises(ModelFileError, match="claim 3145728000 bytes in all"):
        inspect_file(path)


@pytest.mark.parametrize(
    "large",
    [
        layer("Dense", units=10**9),
        layer("Embedding", input_dim=10**9, output_dim=10**9),
        layer("Conv2D", filters=2**27, kernel_size=3),
        layer("UpSampling2D", size=[4096, 4096]),
        layer("ZeroPadding2D", padding=[[2**20, 0], [2**20, 0]]),
        layer("RepeatVector", n=2**28),
    ],
    ids=lambda made: made["class_name"],
)
def test_a_configuration_that_asks_for_more_than_the_file_holds_is_refused(
    tmp_path: Path, large: dict[str, Any]
) -> None:
    flat = [layer("Flatten")] if large["class_name"] == "RepeatVector" else []
    path = keras3(tmp_path / "large.keras", chain(image(), *flat, large))
    with pytest.raises(ModelFileError, match=r"expected at most|asks for an array|gives the shape|reads words"):
        load_keras(path, inspect_file(path))


def test_an_image_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = keras3(tmp_path / "large.keras", chain(image((None, 2**13, 2**14, 3)), layer("Flatten"), DENSE))
    with pytest.raises(ModelFileError, match="expected images"):
        inspect_file(path)


def test_a_name_that_is_a_megabyte_and_there_two_thousand_times_is_no_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "names.h5"
    build = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    build.save(path)
    length, count = 2**20, 2000
    with h5py.File(path, "r+") as file:
        del file["model_weights"].attrs["layer_names"]
        names = ["x" * length, *("y" * length for _ in range(2)), *("z" for _ in range(count - 3))]
        file["model_weights"].attrs.create("layer_names", names, dtype=h5py.string_dtype())
    data = path.read_bytes()
    size = struct.pack("<I", length)
    start = next(
        place for place in range(len(data)) if data[place : place + 4] == data[place + 16 : place + 20] == size
    )
    first = data[start : start + 16]  # length, the heap's address, and a number in it: all names become the first
    path.write_bytes(data[:start] + first * count + data[start + 16 * count :])
    # in a process of its own, as a command is: this one has gigabytes that were freed, which HDF5 would be given
    program = f"""
from pathlib import Path
from {inspect_file.__module__} import inspect_file
inspect_file(Path({str(path)!r}))
"""
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert "ModelFileError" in run.stderr
    assert "an attribute of /model_weights" in run.stderr


def test_a_saved_model_whose_variables_claim_more_than_is_stored_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    from hybrid_edge.export.adopt.saved_model import load_saved_model

    module = tf.Module()
    module.scale = tf.Variable(np.ones((8, 2), np.float32))
    images = tf.TensorSpec((None, 2, 2, 2), tf.float32)
    scores = tf.function(lambda image: tf.reshape(image, (-1, 8)) @ module.scale, input_signature=[images])
    folder = tmp_path / "saved"
    tf.saved_model.save(module, str(folder), signatures=scores.get_concrete_function())
    assert load_saved_model(folder, inspect_file(folder)).output_shape == (None, 2)
    saved = SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    for node in saved.meta_graphs[0].object_graph_def.nodes:
        if node.WhichOneof("kind") == "variable":
            node.variable.shape.dim[0].size = GIANT[0]
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ModelFileError, match="variables claim 4294967296 bytes"):
        load_saved_model(folder, inspect_file(folder))
