import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.gpu.fake_tensorrt import FakeTensorRt

from hybrid_edge.runtime.engines import library
from hybrid_edge.runtime.engines.library import (
    MAX_KEPT_MESSAGES,
    MAX_SHOWN_MESSAGES,
    Library,
    Messages,
    find_library,
    installed,
    make_interface,
)
from hybrid_edge.runtime.errors import BackendUnavailableError


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A library in the place of the installed one: of which version and flags; None where there is none."""

    def put(kind: library.LibraryKind, version: str | None, **flags: int) -> None:
        names = SimpleNamespace(__version__=version, NetworkDefinitionCreationFlag=SimpleNamespace(**flags))
        monkeypatch.setitem(sys.modules, library.MODULE_NAMES[kind], names if version else None)
        find_library.cache_clear()

    yield put
    find_library.cache_clear()


@pytest.mark.parametrize(
    ("version", "flags", "bits"),
    [
        ("10.3.0", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 0b11),
        ("10.16.1", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 0b11),
        ("11.4.1", {"STRONGLY_TYPED": 0}, 0b1),
    ],
)
def test_a_supported_tensorrts_networks_are_strongly_typed_however_it_numbers_its_flags(
    install: Any, version: str, flags: dict[str, int], bits: int
) -> None:
    install("tensorrt", version, **flags)
    found = find_library("tensorrt")
    assert (found.label, found.network_flags) == (f"TensorRT {version}", bits)


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.6.1", {"EXPLICIT_BATCH": 0}),
        ("10.0.1", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}),
        ("10.2.0.19", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}),
        ("10.3.0", {"EXPLICIT_BATCH": 0}),
    ],
)
def test_a_tensorrt_that_is_too_old_is_refused(install: Any, version: str, flags: dict[str, int]) -> None:
    install("tensorrt", version, **flags)
    message = rf"expected TensorRT 10\.3 or later, found {version}; on a Jetson JetPack 6\.1 brings it\."
    with pytest.raises(BackendUnavailableError, match=message):
        find_library("tensorrt")


@pytest.mark.parametrize(
    ("kind", "hint"), [("tensorrt", r"hybrid-edge\[tensorrt\].*JetPack"), ("rtx", r"hybrid-edge\[rtx\]")]
)
def test_a_missing_library_names_the_extra_to_install(install: Any, kind: library.LibraryKind, hint: str) -> None:
    install(kind, None)
    with pytest.raises(BackendUnavailableError, match=hint):
        find_library(kind)


def test_the_installed_rtx_is_what_it_says(rtx: Library) -> None:
    assert installed("rtx")
    assert rtx.label == f"TensorRT-RTX {rtx.module.__version__}"
    assert rtx.network_flags == 1 << int(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert not rtx.has_timing_cache


def test_errors_are_kept_in_order_each_once_and_in_one_line() -> None:
    messages = Messages()
    for severity, text in [
        ("VERBOSE", "chatter"),
        ("ERROR", "the\n  cause."),
        ("INFO", "more chatter"),
        ("WARNING", "careful"),
        ("INTERNAL_ERROR", "what follows"),
        ("ERROR", "the cause"),
    ]:
        messages.add(severity, text)
    assert messages.summary == "the cause; what follows"
    assert messages.warnings == ["careful"]


def test_without_errors_the_warnings_speak_and_a_flood_is_cut() -> None:
    messages = Messages()
    assert messages.summary == "it gave no reason"
    for number in range(100_000):  # an engine that runs for a year takes no more memory than in a minute
        messages.add("WARNING", f"number {number % 1000}")
    assert len(messages.warnings) == MAX_KEPT_MESSAGES
    assert messages.summary.startswith("number 0; number 1; ")
    assert messages.summary.endswith(f"and {MAX_KEPT_MESSAGES - MAX_SHOWN_MESSAGES} more")
    messages.clear()
    assert messages.summary == "it gave no reason"


def test_tensorrts_logger_hands_on_what_matters_and_drops_chatter_before_anything_is_done_with_it(
    rtx: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large build has a million such messages, and holds the interpreter up with each."""
    messages = Messages()
    _, logger = make_interface(rtx, rtx.module.Builder, messages)
    logger.log(rtx.module.ILogger.ERROR, "an error")
    assert messages.errors == ["an error"]
    monkeypatch.setattr(messages, "add", lambda *_: pytest.fail("handed on"))
    for severity in (rtx.module.ILogger.VERBOSE, rtx.module.ILogger.INFO):
        logger.log(severity, "Tactic: 0x01 Time: 0.3")


def test_each_builder_has_its_own_messages_and_none_of_another_ones_logger(rtx: Library) -> None:
    """TensorRT warns of every logger but the first, and uses it all the same."""
    first, second = Messages(), Messages()
    for messages in (first, second):
        builder, logger = make_interface(rtx, rtx.module.Builder, messages)
        assert not rtx.module.OnnxParser(builder.create_network(rtx.network_flags), logger).parse(b"no graph")
    assert "Failed to parse" in second.summary
    assert first.errors == second.errors
    assert (first.warnings, second.warnings) == ([], [])


def test_the_logger_that_tensorrt_was_given_first_lives_as_long_as_the_process(rtx: Library) -> None:
    """As the library's own global one: it would be called also when nothing of ours is left."""
    code = """
import gc
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.runtime.engines.library import Messages, make_interface
library, messages = find_library("rtx"), Messages()
make_interface(library, library.module.Builder, messages)
gc.collect()
library.module.get_plugin_registry()
loggers = [item for item in gc.get_objects() if isinstance(item, library.module.ILogger)]
print(len(loggers))
make_interface(library, library.module.Runtime, Messages())
gc.collect()
print(len([item for item in gc.get_objects() if isinstance(item, library.module.ILogger)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("CUDA initialization failure with error: 35.", "CUDA initialization failure with error: 35"),
        ("", "pybind11::init(): factory function returned nullptr"),
    ],
)
def test_a_tensorrt_that_does_not_start_is_not_available_in_its_own_words(said: str, reason: str) -> None:
    """As its bindings answer where the driver is older than its CUDA (NVIDIA/TensorRT#2913)."""

    def builder(logger: Any) -> None:
        if said:
            logger.log(FakeTensorRt.ILogger.WARNING, said)
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library = Library(FakeTensorRt, "tensorrt", "11.4.1")
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 11\.4\.1 does not start here") as caught:
        make_interface(library, builder, Messages())
    assert f"start here: {reason}; where that is CUDA's initialization, the NVIDIA driver is older" in str(caught.value)


@pytest.mark.skipif(not installed("rtx"), reason="TensorRT-RTX is not installed")
def test_no_garbage_is_collected_while_tensorrt_holds_its_lock_and_logs() -> None:
    """A builder in a reference cycle that is collected inside a logger's call would wait for that lock for ever."""
    code = """
import faulthandler, gc
from hybrid_edge.runtime.engines.library import Messages, find_library, make_interface
faulthandler.dump_traceback_later(60, exit=True)
library = find_library("rtx")
def leave_a_cycle_and_build(logger):
    cycle = [kept.pop()]
    cycle.append(cycle)
    del cycle
    return library.module.Builder(logger)
for allocations in range(1, 20):
    gc.disable()
    gc.collect()
    kept = [make_interface(library, library.module.Builder, Messages())]
    gc.set_threshold(allocations)
    gc.enable()
    make_interface(library, leave_a_cycle_and_build, Messages())
assert gc.isenabled()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
