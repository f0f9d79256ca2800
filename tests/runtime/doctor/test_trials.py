"""Broken installations: what an import or an engine may do, and what is said of it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import make_bundle, make_other_answers

from hybrid_edge.runtime.doctor import trials
from hybrid_edge.runtime.doctor.bounded import MAX_OUTPUT, run_bounded
from hybrid_edge.runtime.doctor.facts import Facts
from hybrid_edge.runtime.doctor.trials import import_problem, try_engines, try_imports

SEGFAULT = "import ctypes; ctypes.string_at(0)"
BROKEN = {
    "raises": ("raise RuntimeError('half installed')", "half installed"),
    "lacks": ("import libGL_is_not_here", "libGL_is_not_here"),
    "exits": ("import sys; sys.exit('go away')", "go away"),
    "leaves": ("import os; print('farewell', flush=True); os._exit(0)", "ended by itself: farewell"),
    "crashes": (SEGFAULT, "ended by SIGSEGV"),
    "aborts": ("import os; os.abort()", "ended by SIGABRT"),
    "illegal": ("import os; os.kill(os.getpid(), 4)", "ended by SIGILL"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
    "hangs": ("import time; time.sleep(600)", "no end within"),
    "floods": ("while True: print('x' * 1000)", "no end within"),
    "torn": ("def (", "invalid syntax"),
    "ends badly": ("import atexit, ctypes; atexit.register(ctypes.string_at, 0)", "SIGSEGV, after its work was done"),
}


@contextlib.contextmanager
def unwatched(_: str) -> Iterator[None]:
    yield


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which modules come before the installed ones."""
    folder = tmp_path / "first"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder


@pytest.mark.parametrize("how", BROKEN)
def test_a_module_that_is_broken_in_any_way_is_told_with_its_reason(path: Path, how: str) -> None:
    code, expected = BROKEN[how]
    (path / "broken.py").write_text(code)
    problem = import_problem("broken", 2.0 if how in ("hangs", "floods") else 60)
    assert problem is not None
    assert expected in problem
    assert len(problem) < 1000


def test_a_module_that_works_is_no_problem_and_one_that_is_not_there_is_named() -> None:
    assert import_problem("json") is None
    assert "nothing_of_this_name" in str(import_problem("nothing_of_this_name"))


def test_what_a_broken_library_says_becomes_a_fact(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path / "cv2.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    monkeypatch.setattr(trials, "MODULES", ("cv2", "not_there"))
    facts = try_imports(Facts(), ("rich",))
    assert facts.import_failures == {"cv2": "numpy.core.multiarray failed to import"}
    assert list(facts.imported) == ["rich"]


def test_the_current_folder_has_no_say_in_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a bundle's, of somebody else."""
    (tmp_path / "numpy.py").write_text("import pathlib; pathlib.Path('ran').touch(); raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert import_problem("numpy") is None
    assert not (tmp_path / "ran").exists()


def test_a_child_of_a_tool_does_not_hold_the_doctor_up() -> None:
    start = time.monotonic()
    ended = run_bounded(["sh", "-c", "sleep 600 & echo done"], 30)
    assert ended.output.strip() == "done"
    assert time.monotonic() - start < 30


def test_output_is_kept_only_in_part_and_what_can_not_be_started_is_told() -> None:
    ended = run_bounded([sys.executable, "-c", f"print('x' * {5 * MAX_OUTPUT} + 'last')"], 60)
    assert len(ended.output) == MAX_OUTPUT
    assert ended.output.strip().endswith("last")
    assert "can't be started" in str(run_bounded(["/nowhere/tool"], 1).failure)
    assert "can't be started" in str(run_bounded(["a\0b"], 1).failure)


def test_each_variant_of_a_bundle_is_tried_on_its_engine(tmp_path: Path) -> None:
    variants: Any = (("fp32", "cpu"), ("fp16", "tensorrt"), ("int8", "tensorrt"))
    bundle = make_bundle(tmp_path / "bundle", variants=variants)
    tried = try_engines(bundle, unwatched)
    assert (tried.problem, tried.root) == (None, str(bundle))
    first, *others = tried.engines
    assert (first.variant, first.state) == ("fp32-cpu", "works")
    assert [item.variant for item in others] == ["fp16-tensorrt", "int8-tensorrt"]
    assert len({item.state for item in others}) == 1
    assert "of the exporter's" in first.text
    assert first.device.startswith("ONNX Runtime")


def test_an_engine_that_computes_something_else_differs(tmp_path: Path) -> None:
    folder = make_other_answers(make_bundle(tmp_path / "bundle"))
    (trial,) = try_engines(folder, unwatched).engines
    assert trial.state == "differs"
    assert "computes something else than the exporter did" in trial.text


def test_a_bundle_that_can_not_be_opened_is_a_problem_and_none_at_all_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert try_engines(None, unwatched) == trials.BundleTrial()
    assert "expected a bundle" in str(try_engines(tmp_path / "absent", unwatched).problem)
    (tmp_path / "manifest.json").write_text("{")
    assert try_engines(None, unwatched).problem


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (SEGFAULT, "crashed"),
        ("import os; os.kill(os.getpid(), 9)", "no memory"),
        ("raise MemoryError('no 8 GiB')", "no memory"),
        ("raise ImportError('no libstdc++')", "absent"),
        ("raise ValueError('of another kind')", "crashed"),
    ],
)
def test_an_engine_that_dies_is_told_and_the_others_are_tried_all_the_same(
    tmp_path: Path, path: Path, code: str, state: str
) -> None:
    (path / "onnxruntime").mkdir()
    (path / "onnxruntime" / "__init__.py").write_text(code)
    bundle = make_bundle(tmp_path / "bundle", variants=(("fp32", "cpu"), ("fp16", "tensorrt")))
    first, second = try_engines(bundle, unwatched).engines
    assert (first.state, second.variant) == (state, "fp16-tensorrt")


def test_an_engine_that_hangs_is_given_up(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path / "onnxruntime.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(trials, "VARIANT_SECONDS", 3.0)
    tried = try_engines(make_bundle(tmp_path / "bundle"), unwatched)
    assert [item.state for item in tried.engines] == ["hung"]


def test_what_hangs_ends_with_the_doctor_that_was_killed(path: Path) -> None:
    (path / "broken.py").write_text(
        f"import os, time; open({str(path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    code = "from hybrid_edge.runtime.doctor.trials import import_problem; import_problem('broken')"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline = time.monotonic() + 60
        while not (path / "pid").exists() or not (path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.kill()
    child = int((path / "pid").read_text())
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
