import json
from typing import Any

import pytest

from hybrid_edge.runtime.doctor.facts import MAX_ITEMS, MAX_TEXT, Facts
from hybrid_edge.runtime.errors import UsageError


def test_facts_are_the_same_after_json() -> None:
    facts = Facts(python="3.12.3", cpu_quota=0.5, packages={"numpy": "2.4.6"}, cameras=["/dev/video0"], has_home=False)
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_facts_of_another_version_are_taken_as_far_as_they_are_known() -> None:
    assert Facts.from_json({"python": "3.12.3", "later": {"anything": 1}}) == Facts(python="3.12.3")
    assert Facts.from_json({}) == Facts()


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        "text",
        {"python": 3.12},
        {"cores": True},
        {"cores": "2"},
        {"memory": 2**70},
        {"packages": ["numpy"]},
        {"packages": {"numpy": None}},
        {"cameras": [1]},
        {"cameras": "x"},
        {"has_home": "no"},
    ],
)
def test_facts_of_another_type_are_refused(content: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        Facts.from_json(content)


def test_foreign_texts_are_cut() -> None:
    facts = Facts.from_json(
        {"cpu": "x" * 10_000, "packages": {str(n): "1" * 10_000 for n in range(2000)}, "cameras": ["y" * 999] * 999}
    )
    assert len(facts.cpu or "") == MAX_TEXT
    assert len(facts.packages) == len(facts.cameras) == MAX_ITEMS
    assert {len(text) for text in (*facts.packages.values(), *facts.cameras)} == {MAX_TEXT}


@pytest.mark.parametrize(
    ("linux", "jetpack"), [("36.4.3", 6), ("38.2", 7), ("39.2.0", 7), ("35.6", 5), ("99", None), (None, None)]
)
def test_a_jetpack_is_known_by_its_jetson_linux(linux: str | None, jetpack: int | None) -> None:
    assert Facts(jetson_linux=linux).jetpack == jetpack
