from __future__ import annotations

import pytest
from hybrid_edge.runtime.bench.places import command_line, without_places


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/me/bundle/a.onnx: expected a graph", "a.onnx: expected a graph"),
        ("[Errno 2] No such file: '/none/bin/python'", "[Errno 2] No such file: 'python'"),
        ("failed (/usr/lib/libcuda.so.1) in /srv/x/infer.so.10", "failed (libcuda.so.1) in infer.so.10"),
        ("given openvino=/opt/ov/bin/python", "given openvino=python"),
        ("/home/me/folder/", "folder"),
        ("120 images/s, 1/2 and / or p50 / p90, runs/latest, ./a/b, ../c/d", None),
        ("pip: https://packages.example/numpy is away", None),
    ],
)
def test_absolute_paths_become_names_and_nothing_else_changes(text: str, kept: str | None) -> None:
    assert without_places(text) == (text if kept is None else kept)


def test_a_command_keeps_its_words() -> None:
    words = ["/venv/bin/hybrid-bench", "runs/latest", "--json=/home/me/a b.json", "--csv", "/home/me/my dir/a.csv", "/"]
    assert command_line(words) == "hybrid-bench runs/latest '--json=a b.json' --csv a.csv /"
