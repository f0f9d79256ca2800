import pytest
from support.models.lowered import SMALL, SMALL_RNN

from hybrid_edge.export.artifacts import PRECISIONS, Artifact, ModelParts, plan_artifacts, variant_name
from hybrid_edge.runtime.errors import UsageError

CNN = SMALL.replace(branches="cnn")
EVERYWHERE = ("fp32", "fp16", "int8")  # precisions of any model


def names(artifacts: list[Artifact]) -> list[str]:
    return [name for artifact in artifacts for name in artifact.names.values()]


def test_each_precision_is_one_graph_for_the_targets_that_take_it_and_auto_has_both_forms() -> None:
    assert plan_artifacts(EVERYWHERE, "auto", ModelParts.of_branches(SMALL)) == [
        Artifact("fp32", "lstm", ("cpu", "cuda", "tensorrt")),
        Artifact("fp32", "unrolled", ("tensorrt",)),
        Artifact("fp16", "lstm", ("cuda", "tensorrt")),
        Artifact("fp16", "unrolled", ("tensorrt",)),
        Artifact("int8", "unrolled", ("cpu",)),
        Artifact("int8", "lstm", ("tensorrt",)),
        Artifact("int8", "unrolled", ("tensorrt",)),
    ]


@pytest.mark.parametrize(("step", "form"), [(100_000, "lstm"), (1_000_000, "unrolled")])
def test_on_the_cpu_an_adopted_models_layers_are_in_int8_where_their_steps_are_large(step: float, form: str) -> None:
    parts = ModelParts(recurrent=True, others=True, units=128, step=step)
    assert plan_artifacts(["int8"], "auto", parts) == [
        Artifact("int8", form, ("cpu",)),
        Artifact("int8", "lstm", ("tensorrt",)),
        Artifact("int8", "unrolled", ("tensorrt",)),
    ]
    (on_cpu, _) = plan_artifacts(["int8"], "unrolled", parts)
    assert on_cpu.recurrent == "unrolled"
    (alone, _) = plan_artifacts(["int8"], "auto", ModelParts(recurrent=True, others=False, units=128, step=step))
    assert alone.recurrent == "unrolled"


def test_very_many_steps_of_an_adopted_model_are_written_out_for_tensorrt_only_on_request() -> None:
    parts = ModelParts(recurrent=True, others=True, units=2048, step=1e6, steps=784)
    assert plan_artifacts(EVERYWHERE, "auto", parts) == [
        Artifact("fp32", "lstm", ("cpu", "cuda", "tensorrt")),
        Artifact("fp16", "lstm", ("cuda", "tensorrt")),
        Artifact("int8", "unrolled", ("cpu",)),
        Artifact("int8", "lstm", ("tensorrt",)),
    ]
    assert {item.recurrent for item in plan_artifacts(EVERYWHERE, "unrolled", parts)} == {"unrolled"}
    alone = ModelParts(recurrent=True, others=False, units=64, step=1e5, steps=784)
    assert plan_artifacts(["int8"], "auto", alone) == [Artifact("int8", "unrolled", ("cpu",))]


def test_recurrent_weights_of_8_bits_are_one_graph_of_written_out_steps_for_the_cpu() -> None:
    for recurrent in ("auto", "unrolled"):
        found = plan_artifacts(["w8"], recurrent, ModelParts.of_branches(SMALL))
        assert found == [Artifact("w8", "unrolled", ("cpu",))]
        assert not found[0].runs_integers_on_cpu
    for recurrent, spec, text in (("lstm", SMALL, "--recurrent lstm"), ("auto", CNN, "a model without them")):
        with pytest.raises(UsageError, match=f"--w8: expected recurrent layers, .* found {text}: use --fp32"):
            plan_artifacts(["w8"], recurrent, ModelParts.of_branches(spec))


def test_a_form_that_was_asked_for_is_the_only_one() -> None:
    for form in ("lstm", "unrolled"):
        artifacts = plan_artifacts(EVERYWHERE, form, ModelParts.of_branches(SMALL))
        assert {artifact.recurrent for artifact in artifacts} == {form}
        assert [(item.precision, item.targets) for item in artifacts] == [
            ("fp32", ("cpu", "cuda", "tensorrt")),
            ("fp16", ("cuda", "tensorrt")),
            ("int8", ("cpu",)),
            ("int8", ("tensorrt",)),
        ]


@pytest.mark.parametrize("recurrent", ["lstm", "unrolled", "auto"])
def test_without_a_recurrent_branch_there_is_one_form(recurrent: str) -> None:
    artifacts = plan_artifacts(EVERYWHERE, recurrent, ModelParts.of_branches(CNN))
    assert {artifact.recurrent for artifact in artifacts} == {"none"}
    assert names(artifacts) == [
        *("fp32-cpu", "fp32-cuda", "fp32-tensorrt"),
        *("fp16-cuda", "fp16-tensorrt"),
        *("int8-cpu", "int8-tensorrt"),
    ]


def test_a_recurrent_branch_alone_is_int8_in_the_form_that_int8_reaches_into() -> None:
    """An artifact of LSTM operators alone would be called INT8 and have nothing in INT8."""
    for recurrent in ("auto", "unrolled"):
        assert plan_artifacts(["int8"], recurrent, ModelParts.of_branches(SMALL_RNN)) == [
            Artifact("int8", "unrolled", ("cpu",)),
            Artifact("int8", "unrolled", ("tensorrt",)),
        ]
    with pytest.raises(UsageError, match="--recurrent unrolled or auto"):
        plan_artifacts(["int8"], "lstm", ModelParts.of_branches(SMALL_RNN))
    assert len(plan_artifacts(["fp32", "fp16"], "lstm", ModelParts.of_branches(SMALL_RNN))) == 2


def test_a_large_recurrent_branch_is_unrolled_for_the_cpu_in_the_graph_that_tensorrt_has_anyway() -> None:
    large = SMALL.replace(rnn_units=2048)
    assert plan_artifacts(["fp32"], "auto", ModelParts.of_branches(large)) == [
        Artifact("fp32", "lstm", ("cuda", "tensorrt")),
        Artifact("fp32", "unrolled", ("cpu", "tensorrt")),
    ]
    for asked in ("lstm", "unrolled"):
        assert plan_artifacts(["fp32"], asked, ModelParts.of_branches(large)) == [
            Artifact("fp32", asked, ("cpu", "cuda", "tensorrt"))
        ]


@pytest.mark.parametrize("recurrent", ["lstm", "unrolled", "auto"])
def test_no_two_variants_share_a_name(recurrent: str) -> None:
    found = names(plan_artifacts(EVERYWHERE, recurrent, ModelParts.of_branches(SMALL)))
    assert len(set(found)) == len(found)


def test_the_widest_precision_comes_first_and_each_once_however_they_were_asked_for() -> None:
    assert PRECISIONS == ("fp32", "w8", "fp16", "int8")
    artifacts = plan_artifacts(["int8", "fp32", "int8"], "lstm", ModelParts.of_branches(SMALL))
    assert [artifact.precision for artifact in artifacts] == ["fp32", "int8", "int8"]
    assert plan_artifacts([], "auto", SMALL) == []


def test_variants_are_named_by_precision_target_and_form() -> None:
    assert variant_name("fp16", "tensorrt", "lstm") == variant_name("fp16", "tensorrt", "none") == "fp16-tensorrt"
    assert variant_name("int8", "cpu", "unrolled") == "int8-cpu-unrolled"
    artifact = Artifact("fp16", "unrolled", ("cuda", "tensorrt"))
    assert artifact.names == {"cuda": "fp16-cuda-unrolled", "tensorrt": "fp16-tensorrt-unrolled"}
    assert artifact.title == "fp16 unrolled for cuda, tensorrt"
    assert Artifact("fp32", "lstm", ("cpu",)).title == "fp32 for cpu"


def test_only_int8_for_the_cpu_runs_integers_there() -> None:
    found = [
        item for item in plan_artifacts(EVERYWHERE, "auto", ModelParts.of_branches(SMALL)) if item.runs_integers_on_cpu
    ]
    assert [item.names for item in found] == [{"cpu": "int8-cpu-unrolled"}]
