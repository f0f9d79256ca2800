import pytest

from hybrid_edge.runtime.errors import SpecError
from hybrid_edge.runtime.spec import ModelSpec, preset


def test_the_reference_hybrid_has_the_papers_sizes() -> None:
    spec = preset("xception-lstm")
    assert spec.inputs == {"image": (299, 299, 3), "sequence": (23, 3887)}


@pytest.mark.parametrize(
    ("branches", "names"),
    [("hybrid", ["image", "sequence"]), ("cnn", ["image"]), ("rnn", ["sequence"]), ("adopted", ["image"])],
)
def test_a_spec_has_only_the_inputs_its_branches_use(branches: str, names: list[str]) -> None:
    assert list(ModelSpec.make(branches=branches).inputs) == names


def test_the_digits_preset_has_an_lstm_as_wide_as_the_cnn_and_a_smaller_one_alone() -> None:
    assert (preset("digits").rnn_units, preset("digits").rnn_batch_norm) == (128, False)
    assert (preset("digits", "rnn").rnn_units, preset("digits", "rnn").rnn_batch_norm) == (64, True)


def test_json_gives_an_equal_spec_back() -> None:
    spec = ModelSpec(image_size=100, timesteps=50, class_labels=("ä", "b"), resize="letterbox")
    assert ModelSpec.from_json(spec.model_dump_json(indent=2)) == spec


def test_fields_of_the_second_format_are_written_only_where_an_older_reader_would_be_wrong() -> None:
    assert not {"channels", "cell", "merge", "sequence_order"} & ModelSpec().model_dump().keys()
    assert ModelSpec().format_version == 1
    later = ModelSpec.make(cell="gru", backbone="densenet121", scaling="torch")
    assert later.format_version == 2
    assert ModelSpec.from_json(later.model_dump_json()) == later
    assert ModelSpec.make(scaling="torch").format_version == 2


def test_a_cnn_alone_does_not_care_about_timesteps() -> None:
    assert ModelSpec.make(timesteps=24, branches="cnn").inputs == {"image": (299, 299, 3)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timesteps": 24}, "89401 is not a multiple of 24; nearest that are: .*23"),
        ({"image_size": 32, "timesteps": 32}, "xception backbone needs image_size >= 71"),
        ({"class_labels": ("a", "b", "a")}, "twice or more: a"),
        ({"image_size": 100_000}, "image_size"),
        ({"resize": "squash"}, "found 'squash'"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_contradiction_is_a_spec_error_that_names_it(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelSpec.make(**fields)


def test_replacing_a_field_validates_the_whole() -> None:
    with pytest.raises(SpecError, match="timesteps must divide"):
        preset("digits").replace(image_size=29)


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(SpecError, match="xception-lstm, digits"):
        preset("resnet")


def test_text_that_is_no_json_is_a_spec_error() -> None:
    with pytest.raises(SpecError, match="invalid model spec"):
        ModelSpec.from_json("{")
