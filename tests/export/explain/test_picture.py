from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.machines.commands import Ended, call_command
from support.models.bundles import encode, sample_image

from hybrid_edge.export import command
from hybrid_edge.export.explain.insides import Insides, look_inside
from hybrid_edge.export.explain.panels import write_picture
from hybrid_edge.runtime import Preprocessor, read_image
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.backbones import recurrent_width
from hybrid_edge.train.model import build_model
from hybrid_edge.train.model_file import load_model

FRAME = sample_image(3, 40, 60)
MAGENTA = (255, 0, 255)
Main = Callable[..., Ended]


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """The command in this process, where TensorFlow has started, with an image to draw."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(encode(FRAME))
    return partial(call_command, "hybrid-export", command.main, monkeypatch, capsys, "--picture")


def small(branches: str, **changes: Any) -> tuple[Any, ModelSpec]:
    """A digits model of random weights; batch normalization has statistics that matter."""
    keras.utils.set_random_seed(1)
    fields: dict[str, Any] = {"image_size": 28, "timesteps": 14, "backbone": "digits", "rnn_units": 6, "rnn_layers": 2}
    fields |= {"rnn_batch_norm": True, "class_labels": ("a", "b", r"$\nope$", "d" * 50), **changes}
    spec = ModelSpec.make(branches=branches, **fields)
    model = build_model(spec)
    for variable in model.weights:
        if "batch_norm" in variable.path or "bias" in variable.path:
            variable.assign(np.random.default_rng(0).uniform(0.5, 2, variable.shape))
    return model, spec


def beside(*vectors: np.ndarray) -> np.ndarray:
    return np.concatenate(vectors)


def check(insides: Insides, model: Any) -> None:
    """What was kept on the way is what the model itself computes."""
    spec = insides.spec
    tensors = Preprocessor(spec)([FRAME])
    tensors.setdefault("image", insides.image[None])
    np.testing.assert_array_equal(insides.image, tensors["image"][0])
    expected = model.predict_on_batch(tensors["image"])[0]
    np.testing.assert_allclose(insides.probabilities, expected, atol=1e-6)
    assert insides.ranking[0] == expected.argmax()
    vectors = []
    if spec.uses_cnn:
        vectors.append(model.get_layer("cnn").predict_on_batch(tensors["image"])[0])
        np.testing.assert_allclose(insides.cnn, vectors[-1], rtol=1e-4, atol=1e-5)
    else:
        assert insides.cnn is None
        assert insides.maps == ()
    if insides.recurrent is not None:
        np.testing.assert_allclose(insides.recurrent.sequence, tensors["sequence"][0], atol=1e-6)
        vectors.append(model.get_layer("rnn").predict_on_batch(tensors["sequence"])[0])
        np.testing.assert_allclose(insides.recurrent.vector, vectors[-1], rtol=1e-4, atol=1e-5)
        assert insides.recurrent.hidden.shape == (spec.timesteps, recurrent_width(spec))
        np.testing.assert_allclose(insides.recurrent.answers[-1], expected, atol=1e-6)
        np.testing.assert_allclose(insides.recurrent.answers.sum(axis=1), 1, atol=1e-5)
    else:
        assert not spec.uses_rnn
    joined = vectors[0]
    if len(vectors) == 2:
        joined = {"multiply": np.multiply, "add": np.add, "concatenate": beside}[spec.merge](*vectors)
    np.testing.assert_allclose(insides.joined, joined, rtol=1e-3, atol=1e-4)
    first, second = insides.ranking[:2]
    bias = np.asarray(model.get_layer("logits").bias)
    gap = insides.logits[first] - insides.logits[second]
    assert insides.evidence.sum() + bias[first] - bias[second] == pytest.approx(gap, abs=1e-3)


@pytest.mark.parametrize(
    ("branches", "cell"),
    [("hybrid", "lstm"), ("cnn", "lstm"), ("rnn", "lstm"), ("hybrid", "gru"), ("hybrid", "bilstm")],
)
def test_what_is_shown_is_what_the_model_computes(branches: str, cell: str) -> None:
    model, spec = small(branches, cell=cell)
    insides = look_inside(model, spec, FRAME)
    check(insides, model)
    if spec.uses_cnn:
        shapes = [(maps.layer, maps.values.shape) for maps in insides.maps]
        assert shapes == [
            ("conv_1_activation", (28, 28, 32)),
            ("conv_2_activation", (14, 14, 64)),
            ("conv_3_activation", (7, 7, 128)),
        ]
        convolved = model.get_layer("cnn").get_layer("conv_1")(insides.image[None])[0]
        leaky = np.where(convolved > 0, convolved, 0.1 * convolved)
        np.testing.assert_allclose(insides.maps[0].values, leaky, atol=1e-5)


def test_the_answer_after_a_step_is_that_of_the_sequence_cut_there() -> None:
    model, spec = small("rnn", rnn_batch_norm=False)
    recurrent = look_inside(model, spec, FRAME).recurrent
    rnn = model.get_layer("rnn")
    value = recurrent.sequence[None, :5]
    for name in ("lstm_1", "lstm_2"):
        value = rnn.get_layer(name)(value)
    np.testing.assert_allclose(recurrent.hidden[4], value[0], atol=1e-5)
    expected = keras.ops.softmax(model.get_layer("logits")(value))[0]
    np.testing.assert_allclose(recurrent.answers[4], expected, atol=1e-5)
    assert np.abs(recurrent.answers[4] - recurrent.answers[-1]).max() > 1e-3


def test_xception_is_looked_into_as_well() -> None:
    spec = ModelSpec(image_size=71, timesteps=71, rnn_units=8, rnn_layers=1, class_labels=("a", "b", "c"))
    keras.utils.set_random_seed(1)
    model = build_model(spec)
    insides = look_inside(model, spec, FRAME)
    check(insides, model)
    names = ("block1_conv1", "block1_conv2", "block2_sepconv2", "block14_sepconv2")
    assert [maps.layer for maps in insides.maps] == [f"{name}_act" for name in names]
    assert insides.maps[-1].values.shape == (3, 3, 2048)
    np.testing.assert_allclose(insides.maps[-1].values.mean(axis=(0, 1)), insides.cnn, rtol=1e-3, atol=1e-4)


def test_each_joining_of_branches_is_shown_as_it_decides(tmp_path: Path) -> None:
    for merge, height in (("concatenate", 1491), ("add", 1631)):
        model, spec = small("hybrid", merge=merge, timesteps=16, sequence_order="patches", scaling="torch")
        insides = look_inside(model, spec, FRAME)
        check(insides, model)
        write_picture(insides, "photo.png", tmp_path / "inside.png")
        assert read_image(tmp_path / "inside.png").shape == (height, 1200, 3)


@pytest.mark.parametrize(
    ("backbone", "layers", "shape"),
    [
        (
            "mobilenet_v2",
            ["Conv1_relu", "expanded_conv_depthwise_relu", "block_1_expand_relu", "out_relu"],
            (2, 2, 1280),
        ),
        ("convnext_tiny", [f"convnext_tiny_stage_0_block_{block}_gelu" for block in range(3)], (2, 2, 768)),
        ("mobilenet_v3_small", [], (2, 2, 576)),  # its activations have no names of their own
    ],
)
def test_other_backbones_are_looked_into_up_to_what_is_averaged(
    backbone: str, layers: list[str], shape: tuple[int, ...]
) -> None:
    spec = ModelSpec.make(
        backbone=backbone, image_size=64, timesteps=64, branches="cnn", scaling="torch", class_labels=("a", "b", "c")
    )
    model = build_model(spec)
    insides = look_inside(model, spec, FRAME)
    check(insides, model)
    assert [maps.layer for maps in insides.maps][: len(layers)] == layers
    assert insides.maps[-1].values.shape == shape
    assert all(min(maps.values.shape[:2]) > 1 for maps in insides.maps)
    if backbone != "convnext_tiny":  # whose average is normalized
        np.testing.assert_allclose(insides.maps[-1].values.mean(axis=(0, 1)), insides.cnn, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("branches", "height"), [("hybrid", 1631), ("cnn", 1136), ("rnn", 1060)])
def test_the_picture_has_its_branches_sections_and_the_image_itself(tmp_path: Path, branches: str, height: int) -> None:
    model, spec = small(branches)
    frame = np.full((50, 80, 3), MAGENTA[::-1], np.uint8)
    write_picture(look_inside(model, spec, frame), "photo.png", tmp_path / "inside.png")
    drawn = read_image(tmp_path / "inside.png")
    assert drawn.shape == (height, 1200, 3)
    rows, columns = np.nonzero((drawn == MAGENTA[::-1]).all(axis=2))
    assert rows.max() < 340
    assert len(rows) > 60_000  # as a file 80 wide for 50 high, and again as a square
    first = columns < 280
    assert np.ptp(columns[first]) / np.ptp(rows[first]) == pytest.approx(80 / 50, rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["inside.png"]


def test_the_command_draws_an_image_with_the_model_of_a_run(main: Main, digits_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "model.keras").write_bytes(digits_file.read_bytes())
    (tmp_path / "runs" / "latest").symlink_to("first")
    model, spec = load_model(digits_file)
    label = spec.class_labels[look_inside(model, spec, FRAME).ranking[0]]
    for named in ((), (digits_file,)):
        code, out, err = main("photo.png", "out.png", *named)
        assert (code, out.count("\n")) == (0, 1), err
        assert out.startswith(f"picture out.png: {label}, ")
        assert read_image(tmp_path / "out.png").shape == (1631, 1200, 3)
        (tmp_path / "out.png").unlink()
    assert not (run / "bundle").exists()


def test_a_folder_that_can_not_be_written_to_is_refused_before_the_model_is_loaded(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path).resolve() != tmp_path)  # root may write everywhere
    monkeypatch.setattr("hybrid_edge.train.model_file.load_model", lambda _: pytest.fail("loaded"))
    code, out, err = main("photo.png", "out.png", "photo.png")
    assert (code, out) == (2, "")
    assert "--picture out.png: expected to be allowed to write into ., found that it is not" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photo.png"], 2, "--picture"),
        (["photo.png", "out.jpg"], 2, "--picture out.jpg: expected a name that ends in .png"),
        (["photo.png", "out.png", "photo.png", "--fp16", "--int8", "--pack"], 2, "found --fp16, --int8, --pack; leave"),
        (["photo.png", "out.png", "--out", "there"], 2, "--picture: expected nothing beside it but MODEL, --runs,"),
        (["photo.png", "no/out.png"], 2, "expected the folder no to exist"),
        (["none.png", "out.png"], 1, "none.png: can't be read"),
        (["photo.png", "out.png"], 1, "expected a run folder at runs/latest, found none"),
        (["photo.png", "out.png", "."], 1, "expected a trained model.keras, found none"),
        (["photo.png", "out.png", "photo.png"], 2, "expected a model of hybrid-train, found one that somebody else"),
    ],
)
def test_a_mistake_is_one_message(main: Main, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    found, out, err = main(*arguments)
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())
    assert not (tmp_path / "out.png").exists()
