import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.scored import read_rows, write_images
from support.machines.commands import Ended

Score = Callable[..., Ended]


def test_without_ray_the_error_names_the_extra(
    run_score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "archive", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = run_score(tmp_path / "archive", "--out", tmp_path / "out", "--ray", "auto")
    assert ended.code == 2
    assert "--ray: expected Ray" in ended.err
    assert "pip install 'hybrid-edge[scale]'" in ended.err


def test_a_cluster_that_is_not_there_is_wrong_usage(run_score: Score, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray (the extra `scale`) is not installed here")
    write_images(tmp_path / "archive", 1)
    ended = run_score(tmp_path / "archive", "--out", tmp_path / "out", "--ray", "auto")
    assert ended.code == 2
    assert "ray start --head" in ended.err


def test_a_cluster_leaves_what_one_process_does_and_goes_on_where_it_was_ended(
    run_score: Score, tmp_path: Path
) -> None:
    utils = pytest.importorskip("ray.cluster_utils", reason="Ray (the extra `scale`) is not installed here")
    write_images(tmp_path / "archive", 40)
    assert run_score(tmp_path / "archive", "--out", tmp_path / "one").code == 0
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        words = (tmp_path / "archive", "--out", tmp_path / "many", "--ray", cluster.address)
        assert run_score(*words).code == 0
        assert read_rows(tmp_path / "many") == read_rows(tmp_path / "one")
        (tmp_path / "many" / "part-0000002-0000.jsonl").unlink()
        again = run_score(*words)
        assert again.code == 0
        assert "30 of them before" in again.err
        assert read_rows(tmp_path / "many") == read_rows(tmp_path / "one")
    finally:
        utils.ray.shutdown()
        cluster.shutdown()
