"""One attack of each kind through ``hybrid-infer``, with and without its check: exit code, words, and memory."""

import json
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from support.models.bundles import change_manifest, encode, make_variant, sample_image, store
from support.models.hostile_graphs import Change, changed, first, node, outside, weight

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.manifest import CHECKSUM, MANIFEST

MEMORY = 4 * 2**30  # bytes of address space, of which libraries map most
COMMAND = Path(sys.executable).with_name("hybrid-infer")


def with_graph(*changes: Change) -> Callable[[Path], Path]:
    """A bundle whose hashes are right, around another graph."""

    def make(target: Path) -> Path:
        golden = Bundle.open(target).manifest.variants[0].golden
        graph = store(target, "artifacts", "onnx", changed(*changes))
        change_manifest(target, variants=(make_variant("fp32", "cpu", graph, golden),))
        return target

    return make


def beside(target: Path) -> Path:
    """A graph whose first weight lies in a file beside it, which holds the right bytes."""
    taken: list[bytes] = []

    def move(model: object) -> None:
        taken.append(first(model).raw_data)  # type: ignore[arg-type]
        outside(first(model))  # type: ignore[arg-type]

    with_graph(move)(target)
    (target / "artifacts" / "x.bin").write_bytes(taken[0])
    return target


def unverified(target: Path) -> Path:
    """A tar in which the bytes of a golden file are not those of its hash; the check itself would not notice."""
    data = (target / MANIFEST).read_text()
    record = Bundle.open(target).manifest.golden.tensors.sha256
    content = json.loads(data.replace(f'"sha256": "{record}"', f'"sha256": "{"0" * 64}"'))
    del content[CHECKSUM]
    (target / MANIFEST).write_text(json.dumps(content))
    with tarfile.open(target.with_suffix(".tar"), "w") as tar:
        tar.add(target, "bundle")
    return target.with_suffix(".tar")


def long_path(target: Path) -> Path:
    content = json.loads((target / MANIFEST).read_text())
    del content[CHECKSUM]
    content["variants"][0]["file"]["path"] = "a" * 2**20
    (target / MANIFEST).write_text(json.dumps(content))
    return target


def endless() -> Change:
    from onnx import TensorProto, helper

    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    taken = [helper.make_tensor_value_info("i", TensorProto.INT64, []), condition]
    given = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["go"])], "body", taken, [given])

    def change(model: object) -> None:
        weight("many", 2**62)(model)  # type: ignore[arg-type]
        true = numpy_helper.from_array(np.array(True), "true")
        model.graph.initializer.append(true)  # type: ignore[attr-defined]
        model.graph.node.insert(0, helper.make_node("Loop", ["many", "true"], [], body=body))  # type: ignore[attr-defined]

    return change


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "weights in a file beside the graph": (beside, "external data"),
    "a loop without end": (with_graph(endless()), "Loop"),
    "10 GB of zeros": (with_graph(weight("s", [2_500_000_000]), node("ConstantOfShape", "s")), "ConstantOfShape"),
    "a golden file of another hash": (unverified, "SHA-256"),
    "a path of a megabyte": (long_path, "at most 160"),
}


@pytest.mark.parametrize("options", [(), ("--no-check",)], ids=["checked", "no check"])
@pytest.mark.parametrize("name", KINDS)
def test_the_command_refuses_it_in_a_few_words(
    name: str, options: tuple[str, ...], target: Path, tmp_path: Path
) -> None:
    if not COMMAND.exists():
        pytest.skip("hybrid-infer is not installed beside this Python")
    make, message = KINDS[name]
    (tmp_path / "photo.png").write_bytes(encode(sample_image()))
    command = [COMMAND, tmp_path / "photo.png", "--backend", "cpu", "--bundle", make(target), *options]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "HYBRID_EDGE_CACHE": str(tmp_path / "cache"), "COLUMNS": "1000"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr) < 1500
