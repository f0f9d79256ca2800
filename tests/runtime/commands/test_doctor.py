"""The command as people call it: its exit codes, its JSON, and that nothing broken breaks it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import make_bundle, make_other_answers

from hybrid_edge.runtime.doctor.rule_table import RULES

ROOT = Path(__file__).parents[3]
MACHINES = ROOT / "tests" / "data" / "doctor"
COMMAND = (sys.executable, "-m", "hybrid_edge.runtime.commands.doctor")
KEYS = {"format", "hybrid_edge", "exit_code", "findings", "bundle", "engines", "facts"}


def doctor(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def broken(*, codes: dict[str, str], folder: Path) -> dict[str, str]:
    """An environment in which modules of these names are the first on the path."""
    folder.mkdir()
    for name, code in codes.items():
        (folder / f"{name}.py").write_text(code)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_a_bundle_that_works_here_is_told_with_how_near_it_came(tmp_path: Path) -> None:
    done = doctor("--bundle", make_bundle(tmp_path / "bundle"))
    lines = done.stdout.splitlines()
    assert any(line.startswith("works ") and "fp32-cpu: ONNX Runtime" in line for line in lines), done.stderr
    assert "1 of 1 variants work" in lines[-1]
    assert all(f"see: {rule.source}" in done.stdout for rule in RULES if f"[{rule.id}]" in done.stdout)


def test_the_json_has_the_documented_keys_and_can_be_judged_elsewhere(tmp_path: Path) -> None:
    found = json.loads(doctor("--bundle", make_bundle(tmp_path / "bundle"), "--json").stdout)
    assert found.keys() == KEYS
    assert [(item["variant"], item["state"]) for item in found["engines"]] == [("fp32-cpu", "works")]
    page = (ROOT / "docs" / "doctor.md").read_text()
    for key in (*KEYS, *found["engines"][0], *(found["findings"] or [{}])[0]):
        assert f"`{key}`" in page
    (tmp_path / "report.json").write_text(json.dumps(found))
    again = json.loads(doctor("--facts", tmp_path / "report.json", "--json").stdout)
    assert (again["facts"], again["findings"]) == (found["facts"], found["findings"])


def test_an_engine_that_computes_something_else_is_exit_3(tmp_path: Path) -> None:
    done = doctor("--bundle", make_other_answers(make_bundle(tmp_path / "bundle")))
    assert done.returncode == 3
    assert "\ndiffers    fp32-cpu: " in done.stdout


def test_a_bundle_that_can_not_be_opened_is_exit_1_and_no_bundle_is_told(tmp_path: Path) -> None:
    done = doctor("--bundle", tmp_path / "absent")
    assert done.returncode == 1
    assert "the bundle can't be opened" in done.stdout
    assert "no bundle here" in doctor(cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--facts", "absent.json"],
        ["--facts", __file__],
        ["--facts", MACHINES / "raspberry-pi-5.json", "--bundle", "x"],
        ["--for", "dancing"],
        ["extra"],
    ],
)
def test_wrong_usage_is_exit_2_on_stderr(arguments: list[object]) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_uses_are_looked_at_where_they_are_asked_for() -> None:
    machine = MACHINES / "container-without-home.json"
    names = {"opencv-headless", "display-missing", "mqtt-missing"}
    plain = doctor("--facts", machine).stdout
    asked = doctor("--facts", machine, "--for", "window", "--for", "mqtt").stdout
    assert not any(f"[{name}]" in plain for name in names)
    assert all(f"[{name}]" in asked for name in names)


def test_the_process_itself_loads_no_library_that_could_break_it(tmp_path: Path) -> None:
    code = f"""
import sys
from hybrid_edge.runtime.commands.doctor import main
sys.argv[1:] = ["--bundle", {str(make_bundle(tmp_path / "bundle"))!r}]
try:
    main()
except SystemExit:
    pass
print([name for name in ("numpy", "cv2", "onnxruntime", "tensorrt", "cuda") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("name", "code"),
    [("typer", "raise ValueError('torn')"), ("rich", "import os; os.abort()"), ("pydantic", "import sys; sys.exit(0)")],
)
def test_a_broken_library_of_its_own_command_line_is_told_in_plain_text(tmp_path: Path, name: str, code: str) -> None:
    environment = broken(codes={name: code}, folder=tmp_path / "first")
    done = doctor(env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "[import-fails]" in done.stdout
    assert f"{name}: " in done.stdout


def test_everything_broken_at_once_is_told_and_exit_1(tmp_path: Path) -> None:
    codes = {
        "numpy": "raise RuntimeError('half installed')",
        "cv2": "import ctypes; ctypes.string_at(0)",
        "onnxruntime": "import os; os._exit(0)",
        "pydantic": "import sys; sys.exit('no')",
    }
    environment = {**broken(codes=codes, folder=tmp_path / "first"), "LC_ALL": "nonsense", "PYTHONIOENCODING": "ascii"}
    for variable in ("HOME", "PATH", "HYBRID_EDGE_CACHE"):
        environment.pop(variable, None)
    done = doctor("--bundle", make_bundle(tmp_path / "bundle"), env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    for reason in ("numpy: half installed", "cv2: ended by SIGSEGV", "onnxruntime: ended by itself", "pydantic: no"):
        assert reason in done.stdout


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-", ">/dev/full"])
def test_closed_and_full_streams_change_no_exit_code_but_that_of_a_full_disk(closed: str) -> None:
    script = f'"$0" -m hybrid_edge.runtime.commands.doctor --facts "$1" {closed}'
    machine = str(MACHINES / "jetpack-7.2-thor.json")
    done = subprocess.run(["sh", "-c", script, sys.executable, machine], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if "full" in closed else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_control_characters_and_markup_in_facts_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07[red]\u202e\r\n" + "9" * 10_000
    facts = {
        "cpu": evil,
        "board": evil,
        "packages": {"opencv-python": "4.11.0.86", "numpy": evil},
        "throttling": [evil],
    }
    (tmp_path / "facts.json").write_text(json.dumps({"facts": facts}))
    done = doctor("--facts", tmp_path / "facts.json")
    assert done.returncode == 1
    assert not [char for char in done.stdout if not char.isprintable() and char != "\n"]
    assert "[red]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 2000


def test_every_rule_is_on_the_page() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    assert [rule.id for rule in RULES if f"`{rule.id}`" not in page] == []
