from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from hybrid_edge.runtime.errors import ModelFileError
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import SPEC_MEMBER, WEIGHTS_MEMBER, load_model, read_spec, save_model, weights_sha256

SPEC = preset("digits").replace(class_labels=("left", "right"), rnn_units=8)

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model = build_model(SPEC)
    save_model(model, SPEC, path)
    return path, model


@pytest.fixture
def members(saved: tuple[Path, Any]) -> Members:
    with zipfile.ZipFile(saved[0]) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def spec_member(**changes: Any) -> bytes:
    content = {"format": "hybrid-edge-model", "version": 1, "spec": SPEC.model_dump(), "weights": "0" * 64}
    return json.dumps({**content, **changes}).encode()


def with_h5(members: Members, change: Callable[[h5py.File], None]) -> Members:
    buffer = io.BytesIO(members[WEIGHTS_MEMBER])
    with h5py.File(buffer, "r+") as file:
        change(file)
    return {**members, WEIGHTS_MEMBER: buffer.getvalue()}


def first_dataset(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names[0]


def test_a_saved_model_comes_back_with_its_spec_and_weights(saved: tuple[Path, Any]) -> None:
    model, spec = load_model(saved[0])
    assert spec == SPEC == read_spec(saved[0])
    assert weights_sha256(model) == weights_sha256(saved[1])


def test_the_identity_of_a_model_is_its_weights(saved: tuple[Path, Any], tmp_path: Path) -> None:
    save_model(saved[1], SPEC.replace(class_labels=("a", "b")), tmp_path / "renamed.keras")
    assert weights_sha256(load_model(tmp_path / "renamed.keras")[0]) == weights_sha256(saved[1])
    assert weights_sha256(build_model(SPEC)) != weights_sha256(saved[1])


def test_what_is_no_keras_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        load_model(tmp_path / "none.keras")
    with pytest.raises(ModelFileError, match="found a folder"):
        load_model(tmp_path)
    (tmp_path / "noise.keras").write_bytes(random.Random(0).randbytes(4096))
    with pytest.raises(ModelFileError, match=r"expected a \.keras file"):
        load_model(tmp_path / "noise.keras")


def test_a_truncated_file_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    data = saved[0].read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.keras").write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            load_model(tmp_path / "cut.keras")


def test_a_keras_file_without_our_spec_is_refused_with_the_way_out(members: Members, tmp_path: Path) -> None:
    del members[SPEC_MEMBER]
    with pytest.raises(ModelFileError, match=r"not written by hybrid-train.*Train it with hybrid-train"):
        load_model(pack(tmp_path / "foreign.keras", members))


def test_a_configuration_that_would_run_code_is_never_read(members: Members, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    config = json.loads(keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)]).to_json())
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    config["config"]["layers"][1]["config"]["function"] = {"class_name": "__lambda__", "config": {"code": code}}
    members["config.json"] = json.dumps(config).encode()
    members["payload.pkl"] = pickle.dumps(Payload())
    model, _ = load_model(pack(tmp_path / "hostile.keras", members))
    assert not marker.exists()
    assert {layer.name for layer in model.layers} >= {"cnn", "rnn", "logits"}


def test_an_archive_that_unpacks_to_far_more_than_its_spec_needs_is_refused(members: Members, tmp_path: Path) -> None:
    members[WEIGHTS_MEMBER] = bytes(300_000_000)
    path = pack(tmp_path / "bomb.keras", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ModelFileError, match="unpack to 300000000 bytes"):
        load_model(path)


def test_a_spec_that_unpacks_to_very_much_is_refused(members: Members, tmp_path: Path) -> None:
    members[SPEC_MEMBER] = b" " * 50_000_000
    with pytest.raises(ModelFileError, match="larger than"):
        read_spec(pack(tmp_path / "bomb.keras", members, zipfile.ZIP_DEFLATED))


def test_a_spec_that_asks_for_a_model_far_larger_than_the_file_is_refused(members: Members, tmp_path: Path) -> None:
    huge = {**SPEC.model_dump(), "rnn_units": 16384, "rnn_layers": 16}
    members[SPEC_MEMBER] = spec_member(spec=huge)
    with pytest.raises(ModelFileError, match="its spec allows"):
        load_model(pack(tmp_path / "huge.keras", members))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        spec_member(format="other"),
        spec_member(version=2),
        spec_member(spec={"image_size": -1}),
        spec_member(spec={**SPEC.model_dump(), "class_labels": []}),
        spec_member(spec={**SPEC.model_dump(), "backbone": "__import__('os')"}),
    ],
)
def test_a_damaged_or_foreign_spec_is_refused(content: bytes, members: Members, tmp_path: Path) -> None:
    members[SPEC_MEMBER] = content
    with pytest.raises(ModelFileError):
        load_model(pack(tmp_path / "spec.keras", members))


def test_two_specs_in_one_file_are_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    path = tmp_path / "two.keras"
    path.write_bytes(saved[0].read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(SPEC_MEMBER, spec_member())
    with pytest.raises(ModelFileError, match="exactly one"):
        load_model(path)


def test_weights_of_another_spec_are_refused(members: Members, tmp_path: Path) -> None:
    other = {**SPEC.model_dump(), "rnn_units": 9}
    members[SPEC_MEMBER] = spec_member(spec=other)
    with pytest.raises(ModelFileError, match="don't fit the spec"):
        load_model(pack(tmp_path / "other.keras", members))


def link_out(file: h5py.File) -> None:
    name = first_dataset(file)
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def link_inside(file: h5py.File) -> None:
    file["detour"] = h5py.SoftLink("/")


def store_outside(file: h5py.File) -> None:
    name = first_dataset(file)
    shape = file[name].shape
    del file[name]
    size = int(np.prod(shape)) * 4
    file.create_dataset(name, shape, "float32", external=[("/etc/passwd", 0, size)])


def map_outside(file: h5py.File) -> None:
    name = first_dataset(file)
    shape = file[name].shape
    del file[name]
    layout = h5py.VirtualLayout(shape, "float32")
    layout[...] = h5py.VirtualSource("/etc/hostname", "data", shape=shape)
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("change", [link_out, link_inside, store_outside, map_outside])
def test_weights_that_point_out_of_the_file_are_refused(
    change: Callable[[h5py.File], None], members: Members, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=r"links elsewhere|stored outside"):
        load_model(pack(tmp_path / "linked.keras", with_h5(members, change)))


def test_weights_other_than_those_that_were_saved_are_refused(members: Members, tmp_path: Path) -> None:
    def nudge(file: h5py.File) -> None:
        file[first_dataset(file)][...] += 1

    with pytest.raises(ModelFileError, match="not those that were saved"):
        load_model(pack(tmp_path / "nudged.keras", with_h5(members, nudge)))


def test_weights_that_are_no_hdf5_are_refused(members: Members, tmp_path: Path) -> None:
    members[WEIGHTS_MEMBER] = random.Random(1).randbytes(400_000)
    with pytest.raises(ModelFileError, match="weights are damaged"):
        load_model(pack(tmp_path / "noise.keras", members))


def test_an_encrypted_or_strangely_packed_archive_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    data = saved[0].read_bytes()
    central = data.rindex(b"PK\x01\x02")  # the last entry is our spec
    for offset, value in ((8, 1), (10, 99)):  # general purpose flag: encrypted; compression method: unknown
        changed = bytearray(data)
        changed[central + offset] = value
        (tmp_path / "strange.keras").write_bytes(changed)
        with pytest.raises(ModelFileError):
            load_model(tmp_path / "strange.keras")


def test_whatever_bit_flips_a_file_loads_the_same_weights_or_is_refused(
    saved: tuple[Path, Any], members: Members, tmp_path: Path
) -> None:
    path = pack(tmp_path / "flipped.keras", members)
    data = path.read_bytes()
    source = random.Random(2)
    directory = data.index(b"PK\x01\x02")
    for number in range(60):
        changed = bytearray(data)
        # in turn: anywhere, and where the archive's and the spec's own structure is
        start = 0 if number % 2 else directory - 600
        position = source.randrange(start, len(data))
        changed[position] ^= 1 << source.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(ModelFileError):
            assert weights_sha256(load_model(path)[0]) == weights_sha256(saved[1])


def test_a_save_that_fails_leaves_the_old_file(saved: tuple[Path, Any], tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(saved[0].read_bytes())

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.saving, "save_model", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(saved[1], SPEC, path)
    assert path.read_bytes() == saved[0].read_bytes()
    assert [item.name for item in tmp_path.iterdir()] == ["model.keras"]


def test_a_specs_own_json_survives_the_file(tmp_path: Path) -> None:
    spec = ModelSpec(
        image_size=28, timesteps=14, backbone="digits", rnn_units=4, rnn_layers=2, class_labels=("é", "日", "c")
    )
    save_model(build_model(spec), spec, tmp_path / "model.keras")
    assert read_spec(tmp_path / "model.keras") == spec


def test_a_model_in_training_is_saved_without_its_optimizer(saved: tuple[Path, Any], tmp_path: Path) -> None:
    """Adam's state would make the file three times as large, and larger than its spec allows to be read."""
    model = build_model(SPEC)
    model.compile("adam", "categorical_crossentropy")
    images = np.zeros((2, *SPEC.image_shape), np.float32)
    targets = np.eye(SPEC.num_classes, dtype=np.float32)[:2]
    model.train_on_batch(images, targets)
    save_model(model, SPEC, tmp_path / "model.keras")
    assert abs((tmp_path / "model.keras").stat().st_size / saved[0].stat().st_size - 1) < 0.02
    assert weights_sha256(load_model(tmp_path / "model.keras")[0]) == weights_sha256(model)
    steps = int(model.optimizer.iterations)
    model.train_on_batch(images, targets)
    assert int(model.optimizer.iterations) == steps + 1
