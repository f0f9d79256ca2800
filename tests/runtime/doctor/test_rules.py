import json
from pathlib import Path

import pytest
from support.machines.rule_cases import CASES

from hybrid_edge.runtime.doctor.checkup import examine_recorded
from hybrid_edge.runtime.doctor.facts import Facts
from hybrid_edge.runtime.doctor.rule_table import RULES
from hybrid_edge.runtime.doctor.rules import SEVERITIES, judge

ROOT = Path(__file__).parents[3]
MACHINES = ROOT / "tests" / "data" / "doctor"
EVERY_USE = ("window", "mqtt", "web", "metrics")


def ids(facts: Facts, *wanted: str) -> list[str]:
    return [item.rule.id for item in judge(facts, RULES, wanted)]


def test_every_rule_has_a_name_of_its_own_a_source_an_action_and_two_machines() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert [rule.id for rule in RULES] == list(CASES)
    for rule in RULES:
        assert rule.severity in SEVERITIES
        assert rule.known
        assert rule.action
        page = ROOT / rule.source
        assert rule.source.startswith("https://") or (rule.source.startswith("docs/") and page.is_file()), rule.id
        assert rule.wanted <= set(EVERY_USE)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_finds_its_machine_and_leaves_the_one_beside_it_alone(name: str) -> None:
    fires, rests = CASES[name]
    found = {item.rule.id: item for item in judge(Facts(**fires), RULES, EVERY_USE)}
    assert name in found
    assert found[name].found.strip()
    assert name not in ids(Facts(**rests), *EVERY_USE)


@pytest.mark.parametrize("name", [rule.id for rule in RULES if rule.wanted])
def test_a_rule_of_a_use_is_silent_where_nobody_asked_for_it(name: str) -> None:
    assert name not in ids(Facts(**CASES[name][0]))


def test_nothing_is_known_against_a_machine_of_which_nothing_is_known() -> None:
    unknown = dict.fromkeys(Facts().to_json(), "PermissionError: /proc")
    assert ids(Facts(unknown=unknown)) == []


FOUND = {
    "jetpack-6.2-orin-nano": (0, ["power-mode"]),
    "jetpack-6.2-tensorrt-11": (
        1,
        ["tensorrt-11-jetpack-6", "cuda-python-jetpack", "cuda-13-driver", "numpy-2-opencv", "power-mode"],
    ),
    "jetpack-7.2-thor": (0, []),
    "pc-two-onnxruntimes": (1, ["opencv-twice", "onnxruntime-twice"]),
    "pc-driver-550-cuda-13": (1, ["cuda-python-driver", "cuda-13-driver", "opencv-rtsp", "opencv-jpeg"]),
    "raspberry-pi-5": (1, ["camera-closed", "throttled"]),
    "container-without-home": (
        1,
        [
            *("onnxruntime-old", "disk-full", "cache-closed", "time-not-set", "no-vnni", "cpu-quota", "little-memory"),
            *("camera-in-container", "no-home"),
        ],
    ),
}


def test_each_composed_machine_says_that_it_is_composed() -> None:
    assert {path.stem for path in MACHINES.iterdir()} == set(FOUND)
    for path in MACHINES.iterdir():
        assert "not recorded on such a machine" in json.loads(path.read_text())["composed"]


@pytest.mark.parametrize("name", FOUND)
def test_a_machine_of_another_kind_is_judged_by_its_facts(name: str) -> None:
    checkup = examine_recorded(MACHINES / f"{name}.json")
    assert (checkup.exit_code, [item.rule.id for item in checkup.findings]) == FOUND[name]


@pytest.mark.parametrize("bad", ["1" * 5000, "..", "v", "1!", "a.b", "\x1b[31m4.11", "9" * 10 + ".1", "", "١.٢"])
def test_odd_versions_are_no_reason_to_fail(bad: str) -> None:
    facts = {"python": bad, "jetson_linux": bad, "driver": bad, "time": bad, "cuda": bad}
    every = dict.fromkeys(
        ("numpy", "tensorrt", "onnxruntime", "onnxruntime-gpu", "opencv-python", "keras", "cuda-python"), bad
    )
    ids(Facts(**facts, packages=every, imported={"cv2": bad}), *EVERY_USE)  # type: ignore[arg-type]
