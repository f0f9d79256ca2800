import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.scored import read_rows, read_summary, samples, write_tar
from support.machines.commands import Ended
from support.models.bundles import encode, sample_image

Score = Callable[..., Ended]


def images_of(folder: Path, tar: Path) -> list[str]:
    """The names within a tar of which there are rows with a label."""
    return [row["image"].removeprefix(f"{tar}/") for row in read_rows(folder) if "label" in row]


def test_a_tars_images_are_read_in_order_and_cut_into_parts(run_score: Score, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "shard.tar", samples(25))
    ended = run_score(tar, "--out", tmp_path / "out")
    assert ended.code == 0
    assert images_of(tmp_path / "out", tar) == [f"{number:05}.png" for number in range(25)]
    assert len(list((tmp_path / "out").glob("part-0000000-*"))) == 3
    assert read_summary(tmp_path / "out")["images"] == 25


@pytest.mark.parametrize("count", [0, 10])
def test_a_tar_without_images_or_of_exactly_one_part_is_one_part(run_score: Score, tmp_path: Path, count: int) -> None:
    tar = write_tar(tmp_path / "shard.tar", samples(count) or [("readme.txt", b"none")])
    assert run_score(tar, "--out", tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    assert read_summary(tmp_path / "out")["complete"] is True


def test_each_tar_is_a_chunk_of_its_own_for_shards(run_score: Score, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number in range(3):
        write_tar(tmp_path / "shards" / f"{number}.tar", samples(3))
    assert run_score(tmp_path / "shards", "--out", tmp_path / "out", "--shard", "1/3").code == 0
    assert images_of(tmp_path / "out", tmp_path / "shards" / "1.tar") == ["00000.png", "00001.png", "00002.png"]


def test_a_zipped_tar_is_read_as_one_that_is_not(run_score: Score, tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "shard.tar", samples(12))
    zipped = tmp_path / "shard.tar.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert run_score(zipped, "--out", tmp_path / "out").code == 0
    assert images_of(tmp_path / "out", zipped) == [f"{number:05}.png" for number in range(12)]


def test_a_tar_behind_an_address_is_read_as_a_local_one(run_score: Score, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    local = write_tar(tmp_path / "shard.tar", samples(12))
    fsspec.filesystem("memory").pipe("/tars/shard.tar", local.read_bytes())
    assert run_score("memory://tars/*.tar", "--out", tmp_path / "out").code == 0
    names = [row["image"] for row in read_rows(tmp_path / "out")]
    assert names == [f"memory:///tars/shard.tar/{number:05}.png" for number in range(12)]
    assert "12 of them before" in run_score("memory://tars/*.tar", "--out", tmp_path / "out").err


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_tar_that_ends_early_gives_what_could_be_read_and_says_where(
    run_score: Score, tmp_path: Path, kept: float
) -> None:
    tar = write_tar(tmp_path / "shard.tar", samples(25))
    data = tar.read_bytes()
    tar.write_bytes(data[: int(len(data) * kept)])
    ended = run_score(tar, "--out", tmp_path / "out")
    assert ended.code == 1
    rows = read_rows(tmp_path / "out")
    found = images_of(tmp_path / "out", tar)
    assert found == [f"{number:05}.png" for number in range(len(found))]
    assert abs(len(found) - 25 * kept) <= 2
    assert rows[-1]["image"] == str(tar)
    assert "the tar" in rows[-1]["error"]
    assert read_summary(tmp_path / "out")["complete"] is True


def test_a_tar_cut_between_two_members_is_noticed(run_score: Score, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "shard.tar", samples(3))
    with tarfile.open(tar) as opened:
        last = opened.getmembers()[-1]
    tar.write_bytes(tar.read_bytes()[: last.offset])
    assert run_score(tar, "--out", tmp_path / "out").code == 1
    assert "it was cut short" in read_rows(tmp_path / "out")[-1]["error"]


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\0" * 512 + b"x" * 512])
def test_what_is_no_tar_is_one_row_with_its_reason(run_score: Score, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "shard.tar").write_bytes(content)
    ended = run_score(tmp_path / "shard.tar", "--out", tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    assert (ended.code, len(rows)) in ((1, 1), (0, 0))  # two empty blocks are an empty tar
    assert all("tar" in row["error"] for row in rows)


def test_members_that_are_no_images_are_rows_or_left_out_and_paths_are_only_names(
    run_score: Score, tmp_path: Path
) -> None:
    image = encode(sample_image(1))
    tar = write_tar(
        tmp_path / "shard.tar",
        [("../../etc/a.png", image), ("/abs/b.png", image), ("c.jpg", b"text"), ("d.txt", b"text"), ("._e.png", b"x")],
    )
    with tarfile.open(tar, "a") as opened:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    before = sorted(tmp_path.iterdir())
    assert run_score(tar, "--out", tmp_path / "out").code == 1
    rows = read_rows(tmp_path / "out")
    assert [row["image"] for row in rows] == [f"{tar}/../../etc/a.png", f"{tar}//abs/b.png", f"{tar}/c.jpg"]
    assert ["label" in row for row in rows] == [True, True, False]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


def test_a_member_that_claims_too_much_is_refused_before_it_is_read(run_score: Score, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        member = tarfile.TarInfo("big.png")
        member.size = 2**40
        buffer.write(member.tobuf())
        opened.offset += 512
    (tmp_path / "shard.tar").write_bytes(buffer.getvalue())
    assert run_score(tmp_path / "shard.tar", "--out", tmp_path / "out").code == 1
    assert "expected at most" in read_rows(tmp_path / "out")[0]["error"]


def test_a_tar_that_was_replaced_is_refused_and_one_that_was_only_touched_is_not(
    run_score: Score, tmp_path: Path
) -> None:
    tar = write_tar(tmp_path / "shard.tar", samples(12))
    assert run_score(tar, "--out", tmp_path / "out").code == 0
    tar.touch()
    assert run_score(tar, "--out", tmp_path / "out").code == 0
    write_tar(tar, samples(11))
    ended = run_score(tar, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "expected the inputs of which it was made, 2 from" in ended.err


def test_another_tar_of_the_same_size_and_time_is_refused(run_score: Score, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "shard.tar", samples(3))
    assert run_score(tar, "--out", tmp_path / "out").code == 0
    ended = run_score(tar.rename(tmp_path / "other.tar"), "--out", tmp_path / "out")
    assert ended.code == 1
    assert "expected the inputs of which it was made" in ended.err
