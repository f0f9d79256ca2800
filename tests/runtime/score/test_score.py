import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.scored import read_rows, read_summary, write_images
from support.machines.commands import Ended
from support.models.bundles import encode, make_bundle, sample_image

from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.score.scorer import Scorer

Score = Callable[..., Ended]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """25 images in two folders, of which one more is damaged."""
    write_images(tmp_path / "archive" / "a", 12)
    write_images(tmp_path / "archive" / "b", 13, first=12)
    (tmp_path / "archive" / "b" / "img99.jpg").write_bytes(b"\xff\xd8\xff damaged")
    return tmp_path / "archive"


def names_of(folder: Path) -> list[str]:
    return [row["image"] for row in read_rows(folder)]


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every part's inode and bytes: one that was written again has another inode."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.glob("part-*")}


def test_every_image_is_a_row_with_the_classifiers_answer_and_a_damaged_one_its_reason(
    run_score: Score, archive: Path, small_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = run_score(archive, "--out", out, "--top-k", 2, "--json")
    assert ended.code == 1  # as in hybrid-infer where an image could not be read
    rows = read_rows(out)
    paths = [archive / "a" / f"img{number}.png" for number in range(12)]
    paths += [archive / "b" / f"img{number}.png" for number in range(12, 25)]
    assert [row["image"] for row in rows] == [*map(str, paths), str(archive / "b" / "img99.jpg")]
    assert rows[-1].keys() == {"image", "error"}
    assert "truncated" in rows[-1]["error"] or "damaged" in rows[-1]["error"]
    with Classifier.load(small_bundle) as classifier:
        for row, prediction in zip(rows, classifier.predict(paths), strict=False):
            assert row["label"] == prediction.label
            assert row["probability"] == pytest.approx(prediction.probability, abs=1e-6)
            assert [item["label"] for item in row["top"]] == [label for label, _ in prediction.top(2)]
    (summary,) = ended.lines
    assert summary == read_summary(out)
    assert (summary["complete"], summary["images"], summary["unreadable"]) == (True, 26, 1)
    assert sum(summary["answers"].values()) == sum(summary["confidence"]) == 25
    assert sum(summary["unreadable_by_reason"].values()) == 1


def test_parquet_and_json_lines_hold_the_same_rows(run_score: Score, archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert run_score(archive, "--out", tmp_path / "lines", "--min-probability", 0.8).code == 1
    assert run_score(archive, "--out", tmp_path / "table", "--min-probability", 0.8, "--format", "parquet").code == 1
    lines, table = read_rows(tmp_path / "lines"), read_rows(tmp_path / "table")
    assert len(lines) == 26
    for ours, theirs in zip(lines, table, strict=True):
        assert (ours["image"], ours.get("answer"), ours.get("label"), ours.get("error")) == (
            theirs["image"],
            theirs.get("answer"),
            theirs.get("label"),
            theirs.get("error"),
        )
        assert theirs.get("probability") == pytest.approx(ours.get("probability"), abs=1e-7)
    unknown = [row for row in lines if "label" in row and "answer" not in row]
    assert unknown
    assert all(row["probability"] < 0.8 for row in unknown)
    assert read_summary(tmp_path / "lines")["answers"]["unknown"] == len(unknown)


def test_what_is_there_stays_and_what_is_missing_is_made_again(run_score: Score, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_score(archive, "--out", out)
    before = state(out)
    assert len(before) == 3
    (out / "part-0000001-0000.jsonl").unlink()
    run_score(archive, "--out", out)
    after = state(out)
    assert {name for name in before if before[name] != after[name]} == {"part-0000001-0000.jsonl"}
    assert len(names_of(out)) == len(set(names_of(out))) == 26


def test_with_everything_there_no_engine_is_opened(
    run_score: Score, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_score(archive, "--out", tmp_path / "out")
    monkeypatch.setattr(Classifier, "load", None)
    again = run_score(archive, "--out", tmp_path / "out", "--json")
    assert again.lines[0]["complete"] is True
    assert "26 of them before" in again.err


def test_a_chunk_that_never_came_back_fails_the_run(
    run_score: Score, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda own, chunk: score(own, chunk) if chunk.number != 1 else ())
    ended = run_score(archive, "--out", tmp_path / "out", "--json")
    assert (ended.code, ended.lines) == (1, [])
    assert "expected all 3 chunks to be finished, found 1 that are not" in ended.err
    assert read_summary(tmp_path / "out")["first_missing"] == [1]


def test_shards_take_every_part_once_and_only_all_of_them_are_complete(
    run_score: Score, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run_score(archive, "--out", out, "--shard", "0/2", "--json")
    assert first.code == 1  # the damaged image is in the last of the three parts
    assert first.lines[0]["complete"] is False
    assert first.lines[0]["first_missing"] == [1]
    second = run_score(archive, "--out", out, "--shard", "1/2", "--json")
    assert (second.code, second.lines[0]["complete"]) == (0, True)
    assert len(names_of(out)) == len(set(names_of(out))) == 26


def test_a_shard_of_nothing_says_so_and_ends_well(run_score: Score, archive: Path, tmp_path: Path) -> None:
    ended = run_score(archive, "--out", tmp_path / "out", "--shard", "7/8")
    assert ended.code == 0
    assert "shard 7/8: nothing to do" in ended.err
    assert not read_rows(tmp_path / "out")


@pytest.mark.parametrize("shard", ["8/8", "0/0", "-1/2", "1", "a/b"])
def test_a_shard_that_is_none_is_wrong_usage(run_score: Score, archive: Path, tmp_path: Path, shard: str) -> None:
    ended = run_score(archive, "--out", tmp_path / "out", f"--shard={shard}")
    assert ended.code == 2
    assert "expected I/N" in ended.err


def test_inputs_that_changed_are_refused_with_what_differs(run_score: Score, archive: Path, tmp_path: Path) -> None:
    run_score(archive, "--out", tmp_path / "out")
    write_images(archive / "a", 1, first=50)
    ended = run_score(archive, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "part-0000001-0000.jsonl: expected the inputs of which it was made, 10 from" in ended.err
    (archive / "a" / "img50.png").unlink()
    for number in range(12):
        (archive / "a" / f"img{number}.png").unlink()
    (tmp_path / "out" / "part-0000000-0000.jsonl").unlink()
    (tmp_path / "out" / "part-0000001-0000.jsonl").unlink()
    ended = run_score(archive, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "expected parts of 2 chunks" in ended.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--min-probability", "0.5"), "min_probability 0.5 (it began with 0.0)"),
        (("--top-k", "1", "--part-size", "5"), "part_size 5 (it began with 10), top_k 1 (it began with 5)"),
        (("--bundle", "other"), "bundle "),
    ],
)
def test_other_options_or_another_bundle_are_refused_with_what_differs(
    run_score: Score,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "other" in options:
        make_bundle(tmp_path / "other", examples=9)
    run_score(archive, "--out", "out")
    before = state(tmp_path / "out")
    ended = run_score(archive, "--out", "out", *options)
    assert ended.code == 1
    assert told in ended.err
    assert state(tmp_path / "out") == before


def test_a_damaged_part_is_named_and_not_counted(run_score: Score, archive: Path, tmp_path: Path) -> None:
    run_score(archive, "--out", tmp_path / "out")
    (tmp_path / "out" / "part-0000001-0000.jsonl").write_text("{}\n")
    ended = run_score(archive, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "part-0000001-0000.jsonl: expected a part file of hybrid-score" in ended.err


def test_a_list_is_read_line_by_line_from_a_file_and_from_stdin(
    run_score: Score, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(archive / "a" / "img3.png"), str(archive / "missing.png"), str(archive / "a" / "img1.png")]
    (tmp_path / "list").write_text("\n".join([names[0], "", *names[1:]]) + "\r\n")
    assert run_score("--from-list", tmp_path / "list", "--out", tmp_path / "out").code == 1
    rows = read_rows(tmp_path / "out")
    assert [row["image"] for row in rows] == names
    assert "can't be read: No such file" in rows[1]["error"]
    with (tmp_path / "list").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run_score("--from-list", "-", "--out", tmp_path / "piped").code == 1
    assert read_rows(tmp_path / "piped") == rows


def test_addresses_are_read_through_fsspec_and_their_folders_walked_in_order(run_score: Score, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for number in (1, 2, 10):
        store.pipe(f"/bucket/photos/img{number}.png", encode(sample_image(number)))
    store.pipe("/bucket/photos/notes.txt", b"no image")
    inputs = ("memory://bucket/photos", "memory://bucket/photos/*1*.png", "memory://bucket/absent.png")
    ended = run_score(*inputs, "--out", tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    names = [f"memory:///bucket/photos/img{number}.png" for number in (1, 2, 10, 1, 10)]
    assert [row["image"] for row in rows] == [*names, "memory://bucket/absent.png"]
    assert all("label" in row for row in rows[:5])
    assert "can't be read" in rows[5]["error"]
    assert "left out: 1 .txt" in ended.err


def test_a_store_that_fails_ends_the_run_in_place_of_making_its_images_unreadable(
    run_score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    from hybrid_edge.runtime.score import remote

    store = fsspec.filesystem("memory")
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    failures = iter([OSError("503"), None, *[OSError("503")] * 9])

    def fail(*_: object, **limits: object) -> bytes:
        if error := next(failures):
            raise error
        return encode(sample_image(1))

    monkeypatch.setattr(type(store), "cat_file", fail)
    names = "\n".join(f"memory://bucket/img{number}.png" for number in range(3))
    (tmp_path / "list").write_text(names)
    ended = run_score("--from-list", tmp_path / "list", "--out", tmp_path / "out", "--part-size", 1, "--readers", 1)
    assert ended.code == 1
    assert "the store failed 3 times, at last with OSError: 503" in ended.err
    assert len(read_rows(tmp_path / "out")) == 1  # the one that was read at the second attempt


@pytest.mark.parametrize("arguments", [("nothing-there",), ("--from-list", "nothing-there")])
def test_an_input_that_does_not_exist_ends_the_run_before_anything_is_opened(
    run_score: Score, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = run_score(*arguments, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "nothing-there" in ended.err
    assert "golden check" not in ended.err


def test_a_full_disk_is_one_line_and_what_is_finished_stays(archive: Path, small_bundle: Path, tmp_path: Path) -> None:
    words = [archive, "--out", tmp_path / "out", "--bundle", small_bundle, "--format", "jsonl", "--part-size", "10"]
    code = """
import resource, sys
from hybrid_edge.runtime.commands import score
from hybrid_edge.runtime.score import score_images
from hybrid_edge.runtime.score.part_files import PartFolder
write = PartFolder.write
def limited(self, record, rows):
    if record.chunk == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    write(self, record, rows)
PartFolder.write = limited
score.main()
"""
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "expected room on the disk" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name for path in (tmp_path / "out").glob("part-*")] == ["part-0000000-0000.jsonl"]
    assert not list((tmp_path / "out").glob(".part-*"))


def test_a_run_killed_after_some_parts_goes_on_and_has_every_image_once(small_bundle: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "archive", 60)
    words = ["archive", "--out", "out", "--bundle", small_bundle, "--format", "jsonl", "--part-size", "2"]
    program = [sys.executable, "-m", "hybrid_edge.runtime.commands.score", *map(str, words)]
    process = subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(list(tmp_path.glob("out/part-*"))) < 3:
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
    process.wait()
    killed = state(tmp_path / "out")
    assert len(killed) >= 3
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert killed.items() <= state(tmp_path / "out").items()
    assert names_of(tmp_path / "out") == [f"archive/img{number}.png" for number in range(60)]


def test_what_a_killed_run_left_half_written_is_swept_once_it_is_old(
    run_score: Score, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    old, new = out / ".part-0000000-0000.jsonl-abc.tmp", out / ".part-0000001-0000.jsonl-abc.tmp"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    run_score(archive, "--out", out)
    assert (old.exists(), new.exists()) == (False, True)  # the new one may be another shard's, which is at work


def test_a_name_that_is_not_utf8_is_a_row_with_an_escape(run_score: Score, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    raw = os.fsencode(tmp_path / "archive") + b"/caf\xe9.png"
    Path(os.fsdecode(raw)).write_bytes(encode(sample_image(1)))
    for kind in ("jsonl", "parquet"):
        pytest.importorskip("pyarrow") if kind == "parquet" else None
        assert run_score(tmp_path / "archive", "--out", tmp_path / kind, "--format", kind).code == 0
        assert names_of(tmp_path / kind) == [f"{tmp_path}/archive/caf\\udce9.png"]


def test_without_pyarrow_the_error_names_the_extra_and_the_other_format(
    run_score: Score, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "hybrid_edge.runtime.score.parquet", raising=False)
    ended = run_score(archive, "--out", tmp_path / "out", "--format", "parquet")
    assert ended.code == 2
    assert "pip install 'hybrid-edge[scale]', or take --format jsonl" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_the_first_line_of_json_lines_says_what_the_part_was_made_of(
    run_score: Score, archive: Path, tmp_path: Path
) -> None:
    run_score(archive, "--out", tmp_path / "out")
    first, *rows = (tmp_path / "out" / "part-0000002-0000.jsonl").read_text().splitlines()
    record = json.loads(first)["part"]
    assert record["tally"]["images"] == len(rows) == 6
    assert (record["chunk"], record["part"], record["last"]) == (2, 0, True)
    assert record["final"].endswith("img99.jpg")
