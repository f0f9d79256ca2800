"""What ``inspect_file`` tells of a model file, and what it refuses before TensorFlow is imported."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.models.hostile_files import CANARY, DENSE, HOSTILE, chain, image, keras3, layer

from hybrid_edge.export.adopt.model_files import inspect_file, is_ours
from hybrid_edge.runtime.errors import ModelFileError

INSPECT_ALL = """
import json, sys
from pathlib import Path
from hybrid_edge.export.adopt.model_files import inspect_file
from hybrid_edge.runtime.errors import ModelFileError
from hybrid_edge.runtime.process import peak_mib
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        inspect_file(path)
    except ModelFileError:
        refused += 1
print(json.dumps([refused, peak_mib(), "tensorflow" in sys.modules]))
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every hostile file."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in HOSTILE.items():
        make(folder / name)
    for path in folder.glob("*.tmp"):
        path.unlink()
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_the_message_names_the_layer_or_the_fault(hostile: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match=HOSTILE[name][1]) as refusal:
        inspect_file(hostile / name)
    assert str(refusal.value).startswith(str(hostile / name))
    assert not CANARY.exists()


def test_all_hostile_files_take_less_than_500_mb_and_no_tensorflow(hostile: Path) -> None:
    command = [sys.executable, "-c", INSPECT_ALL, str(hostile)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    refused, peak, tensorflow = json.loads(answer.stdout)
    assert refused == len(HOSTILE)
    assert peak < 500
    assert not tensorflow
    assert not CANARY.exists()


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [("sequential.h5", (16, 16, 3), 509), ("rows.h5", (16, 16, 1), 1848), ("hybrid.h5", (16, 16, 3), None)],
)
def test_what_a_file_of_keras_2_holds_is_told(
    keras2_files: Path, name: str, shape: tuple[int, ...], parameters: int | None
) -> None:
    found = inspect_file(keras2_files / name)
    assert (found.kind, found.input_shape) == ("h5", shape)
    assert found.written_by.startswith("Keras 2.")
    assert parameters in (None, found.parameters)


def test_a_saved_model_is_known_by_its_graph_and_refused_with_assets_or_links(
    keras2_files: Path, tmp_path: Path
) -> None:
    folder = keras2_files / "sequential"
    assert (inspect_file(folder).kind, inspect_file(folder).recipe) == ("saved_model", None)
    (tmp_path / "saved_model.pb").symlink_to(folder / "saved_model.pb")
    with pytest.raises(ModelFileError, match="is a link"):
        inspect_file(tmp_path)
    (tmp_path / "saved_model.pb").unlink()
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "words.txt").write_text("")
    with pytest.raises(ModelFileError, match="assets"):
        inspect_file(tmp_path)


@pytest.mark.parametrize("name", ["nothing.keras", "a folder"])
def test_what_is_no_model_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(ModelFileError, match=r"expected a \.keras or \.h5"):
        inspect_file(tmp_path / name)


def test_hard_sigmoid_of_keras_2_is_refused_because_it_is_another_function_now(keras2_files: Path) -> None:
    with pytest.raises(ModelFileError, match="hard_sigmoid"):
        inspect_file(keras2_files / "hard_sigmoid.h5")


def test_code_in_a_file_that_keras_2_wrote_is_refused(keras2_files: Path) -> None:
    with pytest.raises(ModelFileError, match=r"\(Lambda\)"):
        inspect_file(keras2_files / "with_code.h5")


def test_a_file_is_ours_if_it_has_our_member(tmp_path: Path) -> None:
    keras3(tmp_path / "theirs.keras", chain(image(), layer("Flatten"), DENSE))
    ours = keras3(tmp_path / "ours.keras", chain(image()), **{"hybrid_edge.json": b"{}"})
    (tmp_path / "torn.keras").write_bytes(ours.read_bytes()[:100])
    assert [is_ours(tmp_path / name) for name in ("theirs.keras", "ours.keras", "torn.keras", "none")] == [
        False,
        True,
        False,
        False,
    ]


def test_a_configuration_that_differs_gives_another_digest(tmp_path: Path) -> None:
    digests = {
        inspect_file(keras3(tmp_path / "m.keras", chain(image(), layer("ReLU", max_value=value)))).configuration
        for value in (6.0, 6.0, 1.0)
    }
    assert len(digests) == 2


def test_an_encrypted_or_damaged_archive_is_one_line(tmp_path: Path) -> None:
    path = keras3(tmp_path / "m.keras", chain(image()))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("config.json").header_offset
    content[start + 50 : start + 60] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        inspect_file(path)
