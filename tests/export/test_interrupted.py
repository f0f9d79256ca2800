"""An export of three precisions, some refused, that is killed, starved or run twice at once: the old bundle or the new.

The export is the real one, in a forked process; what its gates found, and the graphs, are those of an earlier export.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import onnx
import pytest
from support.models.bundles import files_of
from support.models.whole import NAMES

from hybrid_edge.export import exporter, variant_maker
from hybrid_edge.export.artifacts import Artifact
from hybrid_edge.export.bundle import report_folder
from hybrid_edge.export.bundle.bundle_writer import BundleWriter
from hybrid_edge.export.bundle.report_folder import REPORT, check_folder
from hybrid_edge.export.gates.comparison import Flip
from hybrid_edge.export.gates.target_runs import Proof
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.manifest import MANIFEST

if TYPE_CHECKING:
    from support.models.whole import Whole

KILLS = 50
PATIENCE = 60  # seconds
REFUSED = {1: "int8-tensorrt-unrolled", 2: "fp16-tensorrt-unrolled"}  # of each version; nobody else has their graph
HALF_WRONG = {"top1_agreement": 0.5, "confident_agreement": 0.5}


@dataclass
class Exports:
    """Exports of version 1 or 2 of one model, as forked processes, to one bundle."""

    whole: Whole
    out: Path
    monkeypatch: pytest.MonkeyPatch
    graphs: dict[tuple[str, str, str], bytes]

    def run(self, version: int, prepare: Callable[[], object] = lambda: None) -> None:
        """Export in this process."""
        given = replace(self.whole.prepared, weights=f"{version:064x}")
        self.monkeypatch.setattr(exporter, "prepare", lambda *_: given)
        self.monkeypatch.setattr(variant_maker, "against_wider", lambda *_: {})
        self.monkeypatch.setattr(variant_maker, "hidden_drift", lambda *_: ())
        self.monkeypatch.setattr(variant_maker, "prove", self._proofs(version))
        self.monkeypatch.setattr(type(given.graphs), "write", self._graph(version))
        prepare()
        exporter.export(replace(self.whole.request, out=self.out))

    def start(self, version: int, prepare: Callable[[], object] = lambda: None) -> int:
        """Export in a forked process that ends with 0, or with 7 for a BundleError, whose text goes to a file."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            cv2.setNumThreads(0)  # its threads stayed with the parent
            self.run(version, prepare)
            code = 0
        except BundleError as error:
            self.errors.write_text(str(error))
            code = 7
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def errors(self) -> Path:
        return self.out.with_name("errors.txt")

    @property
    def report(self) -> Path:
        return self.out.with_name(f"{self.out.name}-report")

    def check(self) -> int:
        """The version of the bundle, whose every file is whole, and whose report, if there is one, is its own."""
        bundle = Bundle.open(self.out)
        for record in bundle.manifest.files.values():
            bundle.verified(record)
        version = int(bundle.manifest.weights_sha256, 16)
        names = [item.name for item in bundle.manifest.variants]
        assert names == expected(version)
        for item in bundle.manifest.variants:
            graph = onnx.ModelProto.FromString((bundle.root / item.file.path).read_bytes())
            assert graph.doc_string == str(version)
        if (self.report / REPORT).exists():
            report = json.loads((self.report / REPORT).read_text())
            assert report["written"] == names
            assert [item["name"] for item in report["variants"]] == list(NAMES)
        return version

    def leftovers(self) -> set[str]:
        """Files that no manifest and no report refers to."""
        known = {MANIFEST, *Bundle.open(self.out).manifest.files}
        found = files_of(self.out)
        return (found - known) | {file.name for file in self.report.glob(".*")}

    def _proofs(self, version: int) -> Callable[..., list[Proof]]:
        bundle, known = Bundle.open(self.whole.result.bundle), self.whole.variants
        flip = Flip(self.whole.request.images.images[0], "1", 0.9, "2", 0.8)

        def prove(_: Path, artifact: Artifact, *__: Any, **___: Any) -> list[Proof]:
            proofs = []
            for target, name in artifact.names.items():
                parity = known[name].parity
                flips: tuple[Flip, ...] = ()
                if name == REFUSED[version]:
                    parity, flips = parity.model_copy(update={**HALF_WRONG, "flips": 1}), (flip,)
                proofs.append(Proof(target, parity, flips, vars(bundle.golden_outputs(known[name])), ""))
            return proofs

        return prove

    def _graph(self, version: int) -> Callable[..., onnx.ModelProto]:
        def write(_: object, artifact: Artifact, __: object = ()) -> onnx.ModelProto:
            model = onnx.ModelProto.FromString(self.graphs[artifact.precision, artifact.recurrent, artifact.targets[0]])
            model.doc_string = str(version)
            return model

        return write


def expected(version: int) -> list[str]:
    return [name for name in NAMES if name != REFUSED[version]]


@pytest.fixture
def exports(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exports:
    """Version 1 is there, with its report."""
    root = whole.result.bundle
    graphs = {
        (item.precision, item.recurrent, item.target): (root / item.file.path).read_bytes()
        for item in whole.variants.values()
    }
    made = Exports(whole, tmp_path / "bundle", monkeypatch, graphs)
    made.run(1)
    assert made.check() == 1
    assert (made.report / REPORT).exists()
    return made


def end_of(child: int) -> int:
    """Its exit code; a process that never ends is a failure, not a test that hangs."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"an export did not end in {PATIENCE} s")


def test_killed_at_random_moments_the_bundle_and_its_report_are_the_old_or_the_new(exports: Exports) -> None:
    randomness = random.Random(7)
    started, written = os.pipe()

    def tell() -> None:
        real = BundleWriter.add

        def add(*arguments: Any) -> Any:
            os.write(written, b"+")
            exports.monkeypatch.setattr(BundleWriter, "add", real)
            return real(*arguments)

        exports.monkeypatch.setattr(BundleWriter, "add", add)

    def seconds_of(version: int) -> float:
        child = exports.start(version, tell)
        assert select.select([started], [], [], PATIENCE)[0]
        os.read(started, 1)
        start = time.perf_counter()
        assert end_of(child) == 0
        return time.perf_counter() - start

    whole_export = max(seconds_of(2), seconds_of(1))
    assert exports.check() == 1
    outcomes = []
    before = 1
    for _ in range(KILLS):
        child = exports.start(3 - before, tell)
        assert select.select([started], [], [], PATIENCE)[0]
        os.read(started, 1)  # the first artifact's first byte is about to be written
        time.sleep(randomness.uniform(0, whole_export))
        os.kill(child, signal.SIGKILL)
        ended = end_of(child) == 0
        after, leftovers = exports.check(), exports.leftovers()
        assert after == 3 - before or not ended
        with BundleWriter(exports.out):
            check_folder(exports.report)
        assert exports.check() == after
        assert exports.leftovers() == set()
        outcomes.append((after != before, bool(leftovers), (exports.report / REPORT).exists()))
        before = after
    assert {changed for changed, *_ in outcomes} == {True, False}, "the kills fall on both sides of the commit"
    assert any(leftovers for _, leftovers, _ in outcomes)


@pytest.mark.parametrize("room", [2_000, 300_000, 1_000_000])
def test_on_a_full_disk_the_old_bundle_and_its_report_stay(exports: Exports, room: int) -> None:
    before = {path: path.read_bytes() for folder in (exports.out, exports.report) for path in folder.rglob("*.*")}

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    assert end_of(exports.start(2, fill)) == 7
    assert "free some room there, or export to another disk with --out DIR" in exports.errors.read_text()
    assert exports.check() == 1
    assert {path: path.read_bytes() for path in before} == before
    assert exports.leftovers() == set()


def test_two_exports_at_once_leave_one_bundle_and_the_report_of_it(exports: Exports) -> None:
    children = [exports.start(version) for version in (2, 1, 2)]
    seen = set()
    for child in children:
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(end_of, child)
            while not ending.done():
                seen.add(Bundle.open(exports.out).manifest.weights_sha256)
                time.sleep(0.002)
        assert ending.result() == 0
    exports.check()
    assert (exports.report / REPORT).exists()
    assert exports.leftovers() == set()
    assert len(seen) == 2


def test_an_unwritable_report_is_told_the_bundle_stands(exports: Exports, capsys: pytest.CaptureFixture[str]) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    exports.monkeypatch.setattr(report_folder, "write_report", no_room)
    exports.monkeypatch.setattr(exporter, "StepLog", lambda **_: LoudSteps())
    exports.run(2)
    assert exports.check() == 2
    assert not (exports.report / REPORT).exists(), "the old one would speak of another bundle"
    assert "the report can't be written: [Errno 28] No space left on device" in capsys.readouterr().err


def test_a_report_that_cannot_be_withdrawn_leaves_the_old_bundle(exports: Exports) -> None:
    (exports.report / REPORT).unlink()
    (exports.report / REPORT).mkdir()
    with pytest.raises(BundleError, match=r"bundle-report: can't be written.*A bundle that was there is unchanged"):
        exports.run(2)
    (exports.report / REPORT).rmdir()
    assert exports.check() == 1
    assert exports.leftovers() == set()


class LoudSteps(exporter.StepLog):
    """Says what it does, on stderr."""

    def __init__(self) -> None:
        super().__init__(quiet=False)
