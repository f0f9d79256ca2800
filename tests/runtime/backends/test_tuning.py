from pathlib import Path

import pytest
from support.models.bundles import change_manifest, make_bundle

from hybrid_edge.runtime.backends import open_backend, tuning
from hybrid_edge.runtime.backends.tuning import Choice, Tuning, clock_limits, find_tuning, keep_tuning, tunable
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.errors import BundleError

FOUND = Tuning(
    batches={
        1: Choice(variant="fp32-cpu", threads=1, milliseconds=1.5),
        8: Choice(variant="int8-cpu", threads=None, milliseconds=6.5),
    }
)


THREADS = b'{"batches": {"1": {"variant": "fp32-cpu", "threads": %s, "milliseconds": 1}}}'


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    return Bundle.open(make_bundle(tmp_path / "bundle", variants=[("int8", "cpu"), ("fp32", "cpu"), ("fp32", "cuda")]))


def note() -> Path:
    (found,) = tuning.EngineCache().folder.glob("*.tuning")
    return found


def test_what_was_found_fastest_is_taken_for_its_batch_size_and_says_so(bundle: Bundle) -> None:
    with open_backend(bundle).backend:
        pass
    assert keep_tuning(bundle.manifest.variants, FOUND)
    for batch, name in ((1, "fp32-cpu"), (7, "fp32-cpu"), (8, "int8-cpu"), (32, "int8-cpu")):
        found = open_backend(bundle, batch=batch)
        found.backend.close()
        assert found.variant.name == name
        expected = "fp32-cpu was found faster here by hybrid-bench --tune" if name == "fp32-cpu" else None
        assert found.passed_over.get("cpu int8") == expected
    with Classifier.load(bundle, batch_size=1) as classifier:
        assert classifier.selection.variant.name == "fp32-cpu"
        assert classifier.selection.backend.identity["threads"] == 1


def test_what_is_asked_for_by_name_is_never_replaced(bundle: Bundle) -> None:
    keep_tuning(bundle.manifest.variants, FOUND)
    with open_backend(bundle, precision="int8").backend:
        pass
    found = open_backend(bundle, precision="int8", batch=1)
    found.backend.close()
    assert found.variant.name == "int8-cpu"
    with open_backend(bundle, threads=2, batch=1).backend as backend:
        assert backend.identity["threads"] == 2


def test_it_is_not_found_for_other_graphs_versions_cpus_or_clocks(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = bundle.manifest.variants
    keep_tuning(variants, FOUND)
    assert find_tuning(variants) == FOUND
    for name, value in (
        ("usable_cpus", lambda: [0] * 99),
        ("cpu_identity", lambda: "x"),
        ("clock_limits", lambda: ["y"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(tuning, name, value)
            assert find_tuning(variants) is None
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "onnxruntime_build", lambda: "0.0.1")
        assert find_tuning(variants) is None
    changed = tuple(
        item.model_copy(update={"file": item.file.model_copy(update={"sha256": "1" * 64})}) for item in variants
    )
    assert find_tuning(changed) is None
    assert find_tuning(variants) == FOUND


def test_a_variant_that_is_over_its_limits_is_not_tunable_and_leaves_nothing_to_find(bundle: Bundle) -> None:
    keep_tuning(bundle.manifest.variants, FOUND)
    assert [item.name for item in tunable(bundle.manifest.variants)] == ["fp32-cpu", "int8-cpu"]
    parity = bundle.manifest.variants[0].parity.model_copy(update={"max_probability_error": 1.0})
    refused = bundle.manifest.variants[0].model_copy(update={"parity": parity})
    other = change_manifest(bundle.root, variants=(refused, *bundle.manifest.variants[1:]))
    assert [item.name for item in tunable(other.manifest.variants)] == ["fp32-cpu"]
    assert find_tuning(other.manifest.variants) is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b'{"batches": {}}', THREADS % b"0", THREADS % b"-5", THREADS % b"100000"]
)
def test_a_note_that_holds_something_else_counts_for_nothing(bundle: Bundle, content: bytes) -> None:
    keep_tuning(bundle.manifest.variants, FOUND)
    name = note().name
    tuning.EngineCache().keep_note(name, content)
    assert find_tuning(bundle.manifest.variants) is None
    note().write_bytes(b"damaged")
    assert find_tuning(bundle.manifest.variants) is None


def test_of_two_forms_of_one_precision_the_one_that_was_faster_is_taken(bundle: Bundle) -> None:
    first = bundle.manifest.variants[1]
    second = first.model_copy(update={"name": "fp32-cpu-unrolled", "recurrent": "unrolled"})
    both = change_manifest(bundle.root, variants=(*bundle.manifest.variants, second))
    choice = Choice(variant=second.name, threads=None, milliseconds=1)
    keep_tuning(both.manifest.variants, Tuning(batches={1: choice}))
    found = open_backend(both)
    found.backend.close()
    assert found.variant.name == second.name


def test_another_engine_that_the_bundle_has_nothing_for_is_told_as_without_it(bundle: Bundle) -> None:
    keep_tuning(bundle.manifest.variants, FOUND)
    with pytest.raises(BundleError, match="expected a variant of any precision for tensorrt"):
        open_backend(bundle, "tensorrt")


def test_what_can_not_be_kept_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    monkeypatch.setattr(tuning, "cpu_identity", lambda: None)
    assert not keep_tuning(bundle.manifest.variants, FOUND, reasons.append)
    assert reasons == ["the system does not say which CPU this is: what was measured can't be kept"]
    assert find_tuning(bundle.manifest.variants) is None


def test_clock_limits_are_those_of_each_kind_of_core(tmp_path: Path) -> None:
    for number, limit in enumerate(("1500000", "1500000", "2200000")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("schedutil\n")
        (folder / "scaling_max_freq").write_text(f"{limit}\n")
    assert clock_limits(tmp_path) == ["schedutil 1500000", "schedutil 2200000"]
    assert clock_limits(tmp_path / "elsewhere") == []
