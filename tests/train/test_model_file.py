import contextlib
import io
import json
import pickle
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
keras = pytest.importorskip("keras")

from hybrid_edge.runtime.errors import ModelFileError, WeightsError
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import (
    SPEC_MEMBER,
    WEIGHTS_MEMBER,
    load_model,
    load_pretrained,
    save_model,
    weights_sha256,
)

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
    assert spec == SPEC
    assert weights_sha256(model) == weights_sha256(saved[1])


def test_the_identity_of_a_model_is_its_weights(saved: tuple[Path, Any], tmp_path: Path) -> None:
    save_model(saved[1], SPEC.replace(class_labels=("a", "b")), tmp_path / "renamed.keras")
    assert weights_sha256(load_model(tmp_path / "renamed.keras")[0]) == weights_sha256(saved[1])
    assert weights_sha256(build_model(SPEC)) != weights_sha256(saved[1])


def test_what_is_no_keras_archive_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.keras"
    noise.write_bytes(random.Random(0).randbytes(4096))
    for path, message in (
        (tmp_path / "none.keras", "no such file"),
        (tmp_path, "found a folder"),
        (noise, r"expected a \.keras file"),
    ):
        with pytest.raises(ModelFileError, match=message):
            load_model(path)


def test_a_truncated_file_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    data = saved[0].read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.keras").write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            load_model(tmp_path / "cut.keras")


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


def spec_with(**changes: Any) -> bytes:
    return spec_member(spec={**SPEC.model_dump(), **changes})


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        (SPEC_MEMBER, None, r"not written by hybrid-train.*Train it with hybrid-train"),
        (SPEC_MEMBER, 50_000_000, "larger than"),
        (SPEC_MEMBER, spec_with(rnn_units=16384, rnn_layers=16), "its spec allows"),
        (SPEC_MEMBER, spec_with(rnn_units=9), "don't fit the spec"),
        (SPEC_MEMBER, b"", "is damaged"),
        (SPEC_MEMBER, b"{", "is damaged"),
        (SPEC_MEMBER, b"[]", "is damaged"),
        (SPEC_MEMBER, b"[" * 100_000, "is damaged"),
        (SPEC_MEMBER, b"\xff\xfe", "is damaged"),
        (SPEC_MEMBER, spec_member(format="other"), "expected format"),
        (SPEC_MEMBER, spec_member(version=3), "a newer hybrid-edge wrote it"),
        (SPEC_MEMBER, spec_member(spec={"image_size": -1}), "is damaged"),
        (SPEC_MEMBER, spec_with(class_labels=[]), "at least two class labels"),
        (SPEC_MEMBER, spec_with(backbone="__import__('os')"), "is damaged"),
        (WEIGHTS_MEMBER, 300_000_000, "unpack to 300000000 bytes"),
        (WEIGHTS_MEMBER, random.Random(1).randbytes(1_500_000), "weights are damaged"),
    ],
    ids=range(16),
)
def test_a_damaged_foreign_or_oversized_member_is_refused(
    member: str, content: bytes | int | None, message: str, members: Members, tmp_path: Path
) -> None:
    """A number is that of zeros in the member: a few KB as they are packed."""
    del members[member]
    if content is not None:
        members[member] = bytes(content)
    path = pack(tmp_path / "changed.keras", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_a_full_disk_for_temporary_files_is_no_damage(
    saved: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WEIGHTS_MEMBER).symlink_to("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **_: contextlib.nullcontext(tmp_path))
    with pytest.raises(OSError, match="No space left"):
        load_model(saved[0])


def test_two_specs_in_one_file_are_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    path = tmp_path / "two.keras"
    path.write_bytes(saved[0].read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(SPEC_MEMBER, spec_member())
    with pytest.raises(ModelFileError, match="exactly one"):
        load_model(path)


def link_out(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


def link_inside(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    file[name] = h5py.SoftLink("/")


def store_outside(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * 4
    file.create_dataset(name, shape, "float32", external=[("/etc/passwd", 0, size)])


def map_outside(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, "float32")
    layout[...] = h5py.VirtualSource("/etc/hostname", "data", shape=shape)
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("change", [link_out, link_inside, store_outside, map_outside])
def test_weights_that_point_out_of_the_file_are_refused(
    change: Callable[[h5py.File, str, tuple[int, ...]], None], members: Members, tmp_path: Path
) -> None:
    def replaced(file: h5py.File) -> None:
        name = first_dataset(file)
        shape = file[name].shape
        del file[name]
        change(file, name, shape)

    with pytest.raises(ModelFileError, match=r"links elsewhere|stored outside"):
        load_model(pack(tmp_path / "linked.keras", with_h5(members, replaced)))


def test_weights_other_than_those_that_were_saved_are_refused(members: Members, tmp_path: Path) -> None:
    def nudge(file: h5py.File) -> None:
        file[first_dataset(file)][...] += 1

    with pytest.raises(ModelFileError, match="not those that were saved"):
        load_model(pack(tmp_path / "nudged.keras", with_h5(members, nudge)))


def test_an_encrypted_or_strangely_packed_archive_is_refused(saved: tuple[Path, Any], tmp_path: Path) -> None:
    data = saved[0].read_bytes()
    central = data.rindex(b"PK\x01\x02")  # the last entry is our spec
    for offset, value in ((8, 1), (10, 99)):  # general purpose flag: encrypted; compression method: unknown
        changed = bytearray(data)
        changed[central + offset] = value
        (tmp_path / "strange.keras").write_bytes(changed)
        with pytest.raises(ModelFileError):
            load_model(tmp_path / "strange.keras")


def test_a_flipped_bit_is_refused_or_changes_nothing(saved: tuple[Path, Any], members: Members, tmp_path: Path) -> None:
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


def cnn_weights(model: keras.Model) -> list[np.ndarray]:
    return list(model.get_layer("cnn").get_weights())


def test_none_leaves_the_random_weights() -> None:
    model = build_model(SPEC)
    before = cnn_weights(model)
    load_pretrained(model, SPEC, "none")
    np.testing.assert_array_equal(before[0], cnn_weights(model)[0])


def save_legacy(model: keras.Model, path: Path) -> None:
    """The format of Keras's own Xception file without its top layer."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model.get_layer("cnn"))


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("source.keras", lambda model, path: save_model(model, SPEC, path)),
        ("cnn.weights.h5", lambda model, path: model.get_layer("cnn").save_weights(path)),
        ("notop.h5", save_legacy),
    ],
)
def test_a_file_gives_its_cnn_to_a_model_with_other_classes(
    saved: tuple[Path, Any], tmp_path: Path, name: str, save: Callable[[keras.Model, Path], None]
) -> None:
    save(saved[1], tmp_path / name)
    described = preset("digits", "cnn").replace(class_labels=("a", "b", "c"))
    model = build_model(described)
    load_pretrained(model, described, str(tmp_path / name))
    for mine, theirs in zip(cnn_weights(model), cnn_weights(saved[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def wider(path: Path) -> Any:
    described = SPEC.replace(image_size=56, timesteps=56)
    model = build_model(described)
    if path.suffix == ".keras":
        save_model(model, described, path)
    else:
        model.get_layer("cnn").save_weights(path)


def without_cnn(path: Path) -> None:
    alone = preset("digits", "rnn").replace(class_labels=("0", "1"))
    save_model(build_model(alone), alone, path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("nowhere.h5", lambda _: None, r"nowhere\.h5', which is no file.*--weights none"),
        ("text.txt", Path.touch, r"expected a \.keras file of hybrid-train or an \.h5 file"),
        ("wider.weights.h5", wider, "don't fit the digits branch at 28x28"),
        ("wider.keras", wider, "CNN does not fit"),
        ("damaged.weights.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "don't fit"),
        ("rnn.keras", without_cnn, "expected a CNN branch inside, found branches=rnn"),
        (
            "other.keras",
            lambda path: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path),
            r"not written by hybrid-train.*--weights none",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_reason_and_the_alternatives(
    tmp_path: Path, name: str, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=message):
        load_pretrained(build_model(SPEC), SPEC, str(tmp_path / name))


def test_imagenet_weights_that_cannot_be_downloaded_name_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        print("Downloading data")  # noqa: T201  as Keras does
        raise OSError("URL fetch failure: no route")

    monkeypatch.setattr("keras.src.applications.xception.file_utils.get_file", offline)
    described = ModelSpec(image_size=71, timesteps=71, rnn_units=4, class_labels=("0", "1"))
    with pytest.raises(WeightsError, match=r"can't be downloaded \(URL fetch failure: no route\).*--weights none"):
        load_pretrained(build_model(described), described, "imagenet")
    assert capsys.readouterr().out == ""
