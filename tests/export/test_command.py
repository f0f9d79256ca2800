from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.export.pipeline import export
from hybrid_edge.export.request import make_request
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import ModelFileError
from hybrid_edge.train.data import LabelledImage, write_list
from hybrid_edge.train.run_folder import RunFolder


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hybrid-export")
    return subprocess.run(
        [program, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def run(exported_digits: Any, photos: Path, tmp_path: Path) -> RunFolder:
    """A run folder as a training leaves it."""
    run = RunFolder.create(tmp_path / "runs", "first", "hybrid")
    run.model.write_bytes(exported_digits.file.read_bytes())
    write_list(run.images("validation"), [LabelledImage(path, path.parent.name) for path in photos.rglob("*.png")])
    run.write_json(run.metrics, {"top1": 0.5})
    return run


def test_without_arguments_the_newest_run_becomes_a_bundle(run: RunFolder, tmp_path: Path) -> None:
    result = command("--pack", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    bundle = Bundle.open(run.bundle)
    assert bundle.manifest.provenance.run == "first"
    assert bundle.manifest.provenance.metrics == {"top1": 0.5}
    assert (run.path / "bundle.tar").is_file()
    for expected in ("fp32", "tensorrt, cuda, cpu", "top-1 agreement", "peak memory", "next: hybrid-infer --bundle"):
        assert expected in result.stdout
    for step in ("start TensorFlow", "convert to ONNX", "compare with Keras on 16 images", "pack the bundle"):
        assert f" s  {step}" in result.stderr
    assert "oneDNN" not in result.stderr
    assert "cuda drivers" not in result.stderr


def test_wrong_usage_ends_with_2_and_what_to_do(run: RunFolder, tmp_path: Path) -> None:
    result = command(run.model, cwd=tmp_path)
    assert result.returncode == 2
    assert "--images DIR" in result.stderr
    assert "TensorFlow" not in result.stderr


def test_a_file_that_is_not_ours_is_refused_and_no_bundle_appears(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.keras"
    file.write_bytes(b"PK something")
    with pytest.raises(ModelFileError, match=r"expected a \.keras file as hybrid-train writes it"):
        export(make_request(file, images=photos))
    assert not (tmp_path / "bundle").exists()


def test_help_and_wrong_usage_never_import_tensorflow(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['hybrid-export', '--help']\n"
        "from hybrid_edge.export.command import main\n"
        "try: main()\n"
        "finally: assert not {'tensorflow', 'keras', 'tf2onnx', 'onnx'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Example: hybrid-export --pack" in result.stdout
