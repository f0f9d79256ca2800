import json
from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.export.adopt.adoption import Statement, read_labels
from hybrid_edge.export.adopt.model_files import ForeignFile
from hybrid_edge.export.export_request import make_request
from hybrid_edge.runtime.errors import DataError, UsageError

FILE = ForeignFile(Path("model.h5"), "h5", "Keras 2.15.0", (8, 8, 3), 100, None, "0" * 64)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "cat\ndog\nÄffchen\n\n"),
        ("labels.txt", "\ufeffcat\r\n dog \r\nA\u0308ffchen"),
        ("labels.json", json.dumps(["cat", "dog", "Äffchen"])),
        ("labels.json", json.dumps({"dog": 1, "cat": 0, "Äffchen": 2})),
        ("labels.json", json.dumps({"1": "dog", "0": "cat", "2": "Äffchen"})),
    ],
)
def test_labels_are_read_in_the_order_of_the_scores(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ("cat", "dog", "Äffchen")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.txt", b"", "found 0 in 0 bytes"),
        ("a.txt", b"cat\n", "found 1 in"),
        ("a.txt", b"cat\n\ndog\n", "line 2 empty"),
        ("a.txt", b"cat\ndog\ncat\n", "'cat' twice"),
        ("a.txt", b"\xff\xfe\x00", "can't decode"),
        ("a.json", b"[", "Expecting value"),
        ("a.json", b'{"cat": 0, "dog": 2}', "numbers other than 0, 1, 2"),
        ("a.json", b"7", "not iterable"),
    ],
    ids=range(8),
)
def test_what_is_no_list_of_labels_is_refused(name: str, text: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError, match=f"--labels .*{found}"):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("values", [{"scaling": "0-1"}, {"channels": "gbr"}, {"resize": "crop"}])
def test_a_value_that_there_is_none_of_is_refused_with_those_there_are(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(UsageError, match=f"--{name}: expected .*, found '{value}'"):
        Statement(**values)


def test_labels_are_the_folders_names_unless_they_are_stated() -> None:
    assert Statement(scaling="auto").of(FILE, {"dog", "cat", ""}).labels == ("cat", "dog")
    with pytest.raises(DataError, match="--labels FILE"):
        Statement().of(FILE, {""})


def test_a_folder_that_no_label_names_is_told(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"expected folders named by the labels \('cat', 'dog'\), found 'Cat'"):
        Statement(labels=labels).of(FILE, {"Cat", "dog"})


def test_a_model_of_hybrid_train_takes_no_statement(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--scaling, --image-size: expected a model that somebody else trained"):
        make_request(tmp_path, stated=Statement(scaling="unit", image_size=8))
