"""Tries imports and engines, each in a process of its own: a crash, a hang or a want of memory there is a result."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..process import python_command
from ..trust import Trust
from .bounded import Ended, run_bounded
from .facts import MAX_ITEMS, MAX_TEXT, Facts
from .trial_process import MARK

PROGRAM = "from hybrid_edge.runtime.doctor.trial_process import main; main()"
MODULES = ("numpy", "cv2", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda.bindings.runtime")
IMPORT_SECONDS = 90.0  # an import takes one or two, on an emulated ARM ten times as long
MAX_REASON = 1000  # characters of what a library said
OPEN_SECONDS = 300.0  # a bundle of gigabytes on a card is unpacked and verified
VARIANT_SECONDS = 300.0  # a golden check of a large FP32 model on a small CPU takes tens
BUILD_SECONDS = 3600.0  # of a TensorRT engine, minutes on a small module
CHANGES = {"ORT_DISABLE_TELEMETRY": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}

State = Literal["works", "differs", "absent", "not built", "refused", "crashed", "hung", "no memory"]
Watch = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class EngineTrial:
    """How one variant of a bundle went on its engine.

    ``differs``: it computes something else than the exporter did; ``absent``: its engine is not on this machine;
    ``not built``: TensorRT has none for it yet, and was not to build one; ``refused``: the engine, or the bundle's
    check, said no. ``text`` is the reason, or how near it came.
    """

    variant: str
    target: str
    state: State
    text: str
    device: str = ""


@dataclass(frozen=True)
class BundleTrial:
    """The bundle that was tried: its place, or why none was (``problem``, where one is there), and its variants."""

    root: str | None = None
    problem: str | None = None
    engines: tuple[EngineTrial, ...] = ()


def try_imports(facts: Facts, also: Sequence[str] = (), seconds: float = IMPORT_SECONDS) -> Facts:
    """Import each library that matters, and those in ``also``; add to the facts what came of it."""
    there = [name for name in (*MODULES, *also) if _is_there(name)]
    found = {name: _attempt({"module": name}, seconds) for name in there}
    works = {name: outcome for name, outcome in found.items() if outcome["kind"] == "works"}
    return replace(
        facts,
        imported={name: str(outcome["version"])[:MAX_TEXT] for name, outcome in works.items()},
        import_failures={
            name: outcome["text"][-MAX_TEXT:]
            for name, outcome in found.items()
            if outcome["kind"] not in ("works", "absent")
        },
        providers=[str(item)[:MAX_TEXT] for item in works.get("onnxruntime", {}).get("providers", [])][:MAX_ITEMS],
        cuda=works.get("cuda.bindings.runtime", {}).get("cuda", "")[:MAX_TEXT] or None,
    )


def import_problem(module: str, seconds: float = IMPORT_SECONDS) -> str | None:
    """Return why a module can't be imported here, on one line; None where it can."""
    outcome = _attempt({"module": module}, seconds)
    return None if outcome["kind"] == "works" else str(outcome["text"])


def try_engines(bundle: Path | None, watch: Watch, trust: Trust | None = None, *, build: bool = True) -> BundleTrial:
    """Run a bundle's golden examples through each of its variants, one after the other.

    ``watch`` is entered for each with what is tried. ``build`` lets TensorRT build an engine where there is none.
    """
    place = None if bundle is None else str(bundle)
    opened = {"bundle": place, "trust": asdict(trust or Trust())}
    with watch("opening the bundle"):
        listed = _attempt(opened, OPEN_SECONDS)
    if listed["kind"] == "none":
        return BundleTrial()
    if listed["kind"] != "works":
        return BundleTrial(problem=str(listed["text"]))
    trials: list[EngineTrial] = []
    for name, target in listed["variants"]:
        # an engine that is not here is not here for the next variant; a CPU is, and may lack what one variant needs
        known = next((item for item in trials if item.target == target != "cpu" and item.state == "absent"), None)
        with watch(f"trying {name}"):
            request = {**opened, "variant": name, "build": build}
            trials.append(replace(known, variant=name) if known else _try_engine(request, target))
    return BundleTrial(place or str(listed["root"]), engines=tuple(trials))


def _try_engine(request: dict[str, Any], target: str) -> EngineTrial:
    limit = BUILD_SECONDS if target == "tensorrt" and request["build"] else VARIANT_SECONDS
    outcome = _attempt(request, limit)
    if outcome["kind"] == "works":
        near = f"within {outcome['error']:.1g} of the exporter's (limit {outcome['tolerance']:.1g})"
        text = f"{near}, {outcome['milliseconds']:.0f} ms"
        return EngineTrial(request["variant"], target, "works", text, outcome["device"])
    return EngineTrial(request["variant"], target, _state(outcome), str(outcome["text"]))


def _state(outcome: dict[str, Any]) -> State:
    states: dict[str, State] = {
        "GoldenError": "differs",
        "EngineMissingError": "not built",
        "BackendUnavailableError": "absent",
        "MemoryError": "no memory",
        "SIGKILL": "no memory",  # the kernel's answer where memory ends
        "hung": "hung",
        "HybridEdgeError": "refused",
    }
    return next((states[kind] for kind in outcome.get("kinds", ()) if kind in states), "crashed")


def _attempt(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run the program of ``trial_process`` for a request; the result has a ``kind``, and ``text`` where it failed."""
    ended = run_bounded([*python_command(PROGRAM), json.dumps(request)], seconds, CHANGES)
    lines = [line for line in ended.output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(MARK)]
    if ended.failure is None and said:
        outcome: dict[str, Any] = json.loads(said[-1].removeprefix(MARK))
        return {**outcome, "text": " ".join(outcome.get("text", "").split())[:MAX_REASON]}
    return {"kind": "error", "kinds": [ended.killed], "text": _reason(ended, lines, done=bool(said))}


def _reason(ended: Ended, lines: list[str], *, done: bool) -> str:
    failure = ended.failure or "ended by itself"  # a library called os._exit(0)
    if done:
        return f"{failure}, after its work was done"
    last = next((line.strip() for line in reversed(lines)), "")
    return f"{failure}{f': {last}' if last else ''}"[:MAX_TEXT]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError, AttributeError):  # a broken finder: the import itself will say why
        return True
