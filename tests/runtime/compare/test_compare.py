import io
import re
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.machines.commands import Ended
from support.models.bundles import LABELS, SPEC, encode, make_bundle, sample_image

from hybrid_edge.runtime import Classifier, read_image
from hybrid_edge.runtime import console as terminal
from hybrid_edge.runtime.commands import compare as command
from hybrid_edge.runtime.compare.compare_bundles import find_bundles

NAMES = ("hybrid", "cnn", "rnn")


Compare = Callable[..., Ended]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders ``hybrid``, ``cnn`` and ``rnn``, each with a bundle that answers in its own way."""
    runs = tmp_path_factory.mktemp("runs")
    for branches in NAMES:
        (runs / branches).mkdir()
        make_bundle(runs / branches / "bundle", SPEC.replace(branches=branches))
    return runs


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Eighty images in class folders; which class is which means nothing."""
    folders = tmp_path / "test"
    for number in range(80):
        folder = folders / LABELS[number % len(LABELS)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"img{number}.png").write_bytes(encode(sample_image(number, 16 + number, 90 - number)))
    return folders


@pytest.fixture
def compare(tmp_path: Path, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Calls the command in a folder where no bundle is found by default."""
    monkeypatch.chdir(tmp_path)
    return partial(call, "hybrid-compare", command.main)


def comparison_of(ended: Ended) -> dict[str, Any]:
    found: dict[str, Any] = ended.lines[-1]["comparison"]
    return found


def named(runs: Path) -> list[object]:
    return ["--bundle", runs / "hybrid", "--with", runs / "cnn", "--with", runs / "rnn"]


def by_itself(bundle: Path, files: list[Path]) -> list[str]:
    with Classifier.load(bundle) as classifier:
        return [prediction.label for prediction in classifier.predict(files)]


def test_the_figures_are_those_of_each_bundle_by_itself(compare: Compare, runs: Path, folders: Path) -> None:
    damaged = folders / LABELS[0] / "img0.png"
    damaged.write_bytes(b"damaged")
    done = compare(folders, *named(runs), "--json", "--batch", 3)
    assert done.code == 1
    assert f"unreadable: {damaged}: not an image" in done.err
    images = [line for line in done.lines if "answers" in line]
    files = [Path(line["source"]) for line in images]
    truth = [file.parent.name for file in files]
    labels = {name: by_itself(runs / name, files) for name in NAMES}
    for place, line in enumerate(images):
        found = {name: answer["labels"][0] for name, answer in line["answers"].items()}
        assert found == {name: labels[name][place] for name in NAMES}
        assert line["true"] == truth[place]
        assert line["same"] == (len(set(found.values())) == 1)
    result = comparison_of(done)
    assert (result["images"], result["labelled"], result["unreadable"]) == (79, 79, 1)
    assert 0 < result["same"] < 79
    assert result["same"] == sum(line["same"] for line in images)
    same_right = sum(all(labels[name][n] == label for name in NAMES) for n, label in enumerate(truth))
    assert result["same_right"] == same_right
    for model in result["models"]:
        mine = labels[model["name"]]
        others = [labels[name] for name in NAMES if name != model["name"]]
        assert model["right"] == sum(map(str.__eq__, mine, truth))
        assert model["accuracy"] == model["right"] / 79
        alone = [mine[n] == label and all(other[n] != label for other in others) for n, label in enumerate(truth)]
        assert model["only_right"] == sum(alone)
        for name in NAMES:
            assert model["agreement"][name] == sum(map(str.__eq__, mine, labels[name])) / 79
        assert model["p50_ms"] > 0
        assert model["bytes"] == next((runs / model["name"] / "bundle" / "artifacts").iterdir()).stat().st_size


def test_a_folder_is_its_class_in_any_form_of_unicode_and_what_is_left_out_is_counted(
    compare: Compare, folders: Path, tmp_path: Path
) -> None:
    spec = SPEC.replace(class_labels=("caf\xe9", *LABELS[1:]))
    for branches in ("cnn", "rnn"):
        make_bundle(tmp_path / branches / "bundle", spec.replace(branches=branches))
    (folders / LABELS[0]).rename(folders / "cafe\u0301")
    (folders / "notes.txt").touch()
    done = compare(folders, "--bundle", tmp_path / "cnn/bundle", "--with", tmp_path / "rnn/bundle", "--json")
    assert {line["true"] for line in done.lines if "answers" in line} == set(spec.class_labels)
    assert "left out: 1 .txt" in done.err


def test_class_folders_become_one_table_and_sheet(compare: Compare, runs: Path, folders: Path, tmp_path: Path) -> None:
    result = comparison_of(compare(folders, *named(runs), "--json"))
    (tmp_path / "differences.png").unlink()
    done = compare(folders, *named(runs))
    assert done.code == 0
    assert "80 images in class folders" in done.out
    for model in result["models"]:
        (row,) = re.findall(rf"^ *{model['name']} .*$", done.out, re.MULTILINE)
        shares = [model["accuracy"], *(share for name, share in model["agreement"].items() if name != model["name"])]
        assert re.findall(r"[\d.]+(?= %)", row) == [f"{100 * share:.1f}" for share in shares]
    assert f"all agree on {result['same']} of 80 images" in done.out
    assert f"right on {result['same_right']} of these" in done.out
    assert done.out.splitlines()[-1] == "where they differ: differences.png"
    assert read_image(tmp_path / "differences.png").shape[1] > 6 * 128
    assert done.err.count("golden check: 8 examples") == 3


def test_unlabelled_images_are_listed_side_by_side(compare: Compare, runs: Path, folders: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (folders / LABELS[1]).rename(photos)
    done = compare(photos, *named(runs), "--top-k", 1)
    rows = done.out.split("\n\n")[0].splitlines()
    files = [Path(row.split()[-1]) for row in rows[1:]]
    labels = [by_itself(runs / name, files) for name in NAMES]
    assert [file.parent for file in files] == [photos] * 16
    for row, answers in zip(rows[1:], zip(*labels, strict=True), strict=True):
        assert tuple(re.findall(r"(\w+) +[\d.]+ %", row)) == answers
        assert row[0] == ("=" if len(set(answers)) == 1 else "≠")
    assert "16 images, their classes not known" in done.out
    assert "accuracy" not in done.out
    assert not (tmp_path / "differences.png").exists()
    assert "where they differ: mine.png" in compare(photos, *named(runs), "--sheet", "mine.png").out
    assert read_image(tmp_path / "mine.png").size


def test_few_images_are_listed_with_their_true_class(compare: Compare, runs: Path, folders: Path) -> None:
    done = compare(folders / LABELS[2], *named(runs))
    assert done.out.splitlines()[0].split() == [*NAMES, "true", "source"]
    assert re.search(rf"{LABELS[2]} +{re.escape(str(folders / LABELS[2]))}/img2.png", done.out)
    assert "16 images in class folders" in done.out


def test_images_of_unknown_class_beside_others_are_told_apart(compare: Compare, runs: Path, folders: Path) -> None:
    (folders / "stray.png").write_bytes((folders / LABELS[0] / "img0.png").read_bytes())
    result = comparison_of(compare(folders, *named(runs), "--json"))
    assert (result["images"], result["labelled"]) == (81, 80)
    done = compare(folders, *named(runs))
    assert "81 images, of which 80 are in folders named after a class" in done.out
    assert f"{result['same']} of 81 images; all are right on {result['same_right']} of the 80 whose class" in done.out


def test_a_bar_shows_how_far_it_is_unless_rows_scroll_by(
    compare: Compare, runs: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, rows in ((folders, False), (folders / LABELS[0], True)):
        status, stdout = (Console(file=io.StringIO(), force_terminal=True, width=100) for _ in range(2))
        monkeypatch.setattr(terminal, "status", status)
        monkeypatch.setattr(terminal, "stdout", stdout)
        compare(source, *named(runs))
        assert ("comparing" in status.file.getvalue()) != rows  # type: ignore[attr-defined]
        assert "all agree on" in stdout.file.getvalue()  # type: ignore[attr-defined]


def test_answers_are_compared_by_label_not_order(compare: Compare, runs: Path, folders: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "turned", SPEC.replace(class_labels=LABELS[::-1]))
    turned = comparison_of(compare(folders, "--bundle", runs / "hybrid", "--with", other, "--json"))
    files = sorted(folders.rglob("*.png"))
    same = sum(map(str.__eq__, by_itself(runs / "hybrid", files), by_itself(other, files)))
    assert turned["same"] == same < 80
    alike = make_bundle(tmp_path / "alike")
    assert comparison_of(compare(folders, "--bundle", runs / "hybrid", "--with", alike, "--json"))["same"] == 80
    assert compare(folders, "--bundle", runs / "hybrid", "--with", alike).out.splitlines()[-1].startswith("ms: median")


def test_no_image_but_damaged_ones_is_not_a_crash(compare: Compare, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    done = compare("bad.png", *named(runs), "--json")
    assert done.code == 1
    assert done.lines[0]["error"] == "the file is empty"
    model = comparison_of(done)["models"][0]
    assert (model["p50_ms"], model["accuracy"]) == (None, None)
    assert model["agreement"] == dict.fromkeys(NAMES)
    table = compare("bad.png", *named(runs)).out
    assert "0 images" in table
    assert "nan" not in table
    assert "%" not in table
    (row,) = re.findall(r"^ *cnn .*$", table, re.MULTILINE)
    assert row.split()[3:] == ["–", row.split()[4], "–", "–", "–"]


def test_no_name_and_no_number_is_cut_on_a_narrow_terminal(
    compare: Compare, runs: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"digits-{branches}-baseline" for branches in NAMES]
    for branches, name in zip(NAMES, names, strict=True):
        shutil.copytree(runs / branches, tmp_path / "runs" / name)
    options = ["--bundle", f"runs/{names[0]}", "--with", f"runs/{names[1]}", "--with", f"runs/{names[2]}"]
    for source, width in ((folders, 80), (folders / LABELS[0], 80)):
        piped = compare(source, *options).out
        screen = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(terminal, "stdout", Console(file=screen, force_terminal=True, width=width, color_system=None))
            compare(source, *options)
        for text in (piped, screen.getvalue()):
            assert "…" not in text
            assert all(re.search(f"^ *{n} +{name}\\b", text, re.MULTILINE) for n, name in enumerate(names, start=1))
            agreement = comparison_of(compare(source, *options, "--json"))["models"][0]["agreement"]
            assert all(f"{100 * agreement[name]:.1f} %" in text for name in names[1:])
        table = re.split(r"\d+ images in class folders", screen.getvalue())[1].split("where they differ")[0]
        assert max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing option"),
        (["--with", "RUNS/cnn", "--sheet", "out.jpg"], 2, "--sheet out.jpg: expected a name that ends in .png"),
        (["--with", "RUNS/cnn", "--sheet", "no/out.png"], 2, "expected the folder no to exist"),
        (["--with", "RUNS/cnn", "/dev/video0"], 2, "found a camera or a stream"),
        (["--with", "RUNS/cnn"], 1, "no bundle here"),
        (["--with", "nowhere", "--bundle", "RUNS/cnn"], 1, "nowhere: expected a bundle"),
        (["--with", "RUNS/cnn", "--bundle", "RUNS/cnn/bundle"], 2, "expected two different bundles or more"),
        (["--with", "RUNS/cnn", "--with", "RUNS/cnn/bundle"], 1, "no bundle here"),
        (
            ["--with", "RUNS/cnn", "--bundle", "OTHER"],
            2,
            "5 in OTHER and 5 in cnn, of which one of them alone has: dog,",
        ),
    ],
)
def test_a_mistake_is_told_before_an_engine_is_opened(
    compare: Compare, runs: Path, folders: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    labels = tuple("shoe" if label == "dog" else label for label in LABELS)
    make_bundle(tmp_path / "OTHER", SPEC.replace(class_labels=labels))
    done = compare(folders, *(argument.replace("RUNS", str(runs)) for argument in arguments))
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "backend:" not in done.err


def copied(run: Path, target: Path) -> Path:
    shutil.copytree(run / "bundle", target)
    return target


def test_a_bundle_is_called_as_its_run_or_its_tar(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "small.tar", "w") as tar:
        tar.add(runs / "cnn" / "bundle", ".")
    (tmp_path / "latest").symlink_to(runs / "rnn")
    found = find_bundles(runs / "hybrid" / "bundle" / "manifest.json", [tmp_path / "small.tar", tmp_path / "latest"])
    assert list(found) == ["hybrid", "small", "rnn"]
    assert found["small"][0] == tmp_path / "small.tar"
    assert [bundle.spec.branches for _, bundle in found.values()] == ["hybrid", "cnn", "rnn"]


def test_bundles_of_one_name_are_told_apart_by_their_folders(runs: Path, tmp_path: Path) -> None:
    other = copied(runs / "cnn", tmp_path / "old" / "cnn" / "bundle")
    assert list(find_bundles(runs / "cnn", [other.parent])) == [f"{runs.name}/cnn", "old/cnn"]


def test_the_usual_bundle_is_the_first_unless_the_others_do_without(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [runs / "cnn", runs / "rnn"]
    assert list(find_bundles(None, others)) == ["cnn", "rnn"]
    assert "only the bundles of --with: no bundle here" in capfd.readouterr().err
    copied(runs / "hybrid", tmp_path / "bundle")
    assert list(find_bundles(None, others)) == [tmp_path.name, "cnn", "rnn"]
    monkeypatch.chdir(runs / "rnn")
    assert list(find_bundles(None, others)) == ["cnn", "rnn"]
    assert capfd.readouterr().err == ""
