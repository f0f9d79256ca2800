import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.live.run import LiveRun
from support.machines.commands import Ended
from support.models.bundles import make_bundle
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.commands import infer as command
from hybrid_edge.runtime.infer_request import InferRequest
from hybrid_edge.runtime.pipeline import launch

ROOT = Path(__file__).parents[3]
FLAG_SETS: tuple[tuple[str, ...], ...] = (
    ("a.png",),
    ("photos", "*.jpg", "sub/clip.mp4"),
    ("rtsp://user:p%40ss@host:8554/a?b=c", "/dev/video3", "csi://0", "gst://videotestsrc ! 'quoted' \\ \"twice\""),
    ("--camera", "0", "--camera", "2", "--width", "640", "--height", "480", "--fps", "0.5"),
    ("--camera", "1", "--every-frame", "--batch", "4", "--max-wait", "12.5", "--smooth", "0.3", "--hang-timeout", "20"),
    ("--camera", "1", "--latest", "--window", "--json", "--digit", "--top-k", "1", "--no-supervise"),
    ("b c.mp4", "--headless", "--save", "out.mp4", "--supervise"),
    ("ä – 日本.png", "--snapshots", "kept/here", "--when", "a\\b\t\x7f'\"#>0.8"),
    ("a.png", "--bundle", "bundle.tar", "--backend", "cpu", "--precision", "int8", "--threads", "2"),
    ("a.png", "--no-check", "--no-build", "--profile", "1,2,4", "--workspace", "512"),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[InferRequest]:
    """What the command would have run."""
    requests: list[InferRequest] = []
    monkeypatch.setattr(launch, "run", lambda request: requests.append(request) or 0)
    return requests


@pytest.fixture
def infer(call: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_EDGE_CONFIG_TEXT", "")  # as before, afterwards
    return partial(call, "hybrid-infer", command.main)


def config(folder: Path, text: str) -> Path:
    path = folder / "camera.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("flags", FLAG_SETS, ids=" ".join)
def test_what_print_config_writes_asks_for_the_same_from_any_folder(
    infer: Callable[..., Ended],
    asked: list[InferRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = infer(*flags, "--print-config")
    assert (printed.code, asked) == (0, [])
    written = config(elsewhere, printed.out)
    assert infer("--config", written).code == infer(*flags).code == 0
    again, first = asked
    absolute = {name: tmp_path / value for name, value in vars(first).items() if isinstance(value, Path)} | {
        "sources": tuple(str(tmp_path / name) if "://" not in name else name for name in first.sources)
    }
    assert vars(again) == vars(first) | absolute
    monkeypatch.chdir(elsewhere)
    assert infer("--config", written, "--print-config").out == printed.out


def test_every_option_that_says_how_has_a_key_and_no_action_has(
    infer: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # else long names are cut
    helped = infer("--help").out
    options = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", helped))
    for name in options:
        refused = infer("--config", config(tmp_path, f"{name} = {{}}"))
        assert refused.code == 2
        known = f"camera.toml:1: {name}: expected" in refused.err
        assert known != (name in {"config", "print-config", "list-cameras", "help"}), name


def test_flags_win_and_sources_of_the_command_line_take_the_place_of_all_in_the_file(
    infer: Callable[..., Ended], asked: list[InferRequest], tmp_path: Path
) -> None:
    path = config(tmp_path, 'sources = ["a.png"]\ncamera = [0]\ntop-k = 3\nheadless = true\nlatest = true\nbatch = 2')
    for flags in ((), ("b.png", "--top-k", 7, "--window"), ("--camera", 4)):
        assert infer("--config", path, *flags).code == 0
    plain, flagged, camera = asked
    assert plain.sources == (str(tmp_path / "a.png"), "/dev/video0")
    assert (plain.top_k, plain.window, plain.every_frame, plain.batch) == (3, False, False, 2)
    assert flagged.sources == ("b.png",)
    assert (flagged.top_k, flagged.window, flagged.batch) == (7, True, 2)
    assert camera.sources == ("/dev/video4",)


def test_paths_and_globs_are_relative_to_the_file_and_live_names_stay(
    infer: Callable[..., Ended], asked: list[InferRequest], tmp_path: Path
) -> None:
    folder = tmp_path / "of [one]"
    folder.mkdir()
    (folder / "7").touch()
    sources = ["7", "8", "x.png", "*.png", "/else/where.png", "http://camera/mjpeg"]
    path = config(folder, f"\ufeffsources = {sources}\nbundle = '../bundle'\nsave = '/out.mp4'")
    assert infer("--config", path).code == 0
    beside = [str(folder / "7"), "8", str(folder / "x.png"), f"{tmp_path}/of [[]one]/*.png"]
    assert asked[0].sources == (*beside, "/else/where.png", "http://camera/mjpeg")
    assert (asked[0].bundle, asked[0].save) == (folder / "../bundle", Path("/out.mp4"))


WRONG: list[tuple[str, str]] = [
    ("top-k = 3\nsources = [", ":2: expected TOML"),
    ("top-k 3", ":1: expected TOML"),
    ("a = '''\n\n", ":3: expected TOML"),
    ("top-k = 3\n\n# again\n top-k = 4\nbatch = 2", ":4: expected TOML .* top-k a second time, after line 1"),
    ("\ntop-k = 3\nsources = [\n'top-k = 5']\ntop-k = 4", ":5: .* top-k a second time, after line 2"),
    ("top-k = 3\nsources = ['''\nwdith = 3\n''']\nwdith = 640", ":5: .*found wdith; did you mean width?"),
    ("as_json = true", ":1: expected an option's long name, as --help shows it, found as_json"),
    ("[outputs]\njson = true", r":1: .*found the table \[outputs\]"),
    ("top-k = 3\noutputs.json = true", r":2: .*found the table \[outputs\]"),
    ("window = true\nheadless = true", ":2: expected one of headless and window, found both"),
    ("top-k = 0", ":1: top-k: .*greater than or equal to 1, found 0"),
    ("batch = 5000", ":1: batch: .*4096, found 5000"),
    ("max-wait = nan", ":1: max-wait: "),
    ("fps = inf", ":1: fps: "),
    ("camera = [0, -1]", r":1: camera: .*found \[0, -1\]"),
    ("top-k = '3'", ':1: top-k: expected a whole number, found "3"'),
    ("top-k = true", ":1: top-k: expected a whole number, found true"),
    ("top-k = 2.5", ":1: top-k: expected a whole number, found 2.5"),
    ("json = 1", ":1: json: expected true or false, found 1"),
    ("sources = 'a.png'", r':1: sources: expected a list, each of it a text in quotes: sources = \["a.png"\]'),
    ("sources = [1]", ":1: sources: expected a list"),
    ("when = 2026-01-01", ":1: when: expected a text in quotes"),
    ("sources = ['ftp://a']", ":1: sources: ftp://a: expected one of"),
    ("config = 'other.toml'", ":1: expected an option's long name"),
    ("a = " + "[" * 20_000, ": expected values in at most one pair of brackets"),
    ("batch = " + "1" * 20_000, ":1: "),
    ("# " + "x" * 70_000, ": expected at most 65536 bytes"),
    ('"\\u001b[31m" = 1', r": .*found \\x1b\[31m"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_what_is_wrong_is_told_with_file_and_line(
    infer: Callable[..., Ended], asked: list[InferRequest], tmp_path: Path, text: str, message: str
) -> None:
    path = config(tmp_path, text)
    refused = infer("--config", path)
    assert refused.code == 2
    assert re.search(f"{re.escape(str(path))}{message}", refused.err), refused.err
    assert asked == []


def test_a_file_that_can_not_be_read_is_wrong_usage(infer: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"top-k = 3\nwhen = '\xe9>0.5'")
    assert "No such file" in infer("--config", "none.toml").err
    assert "Is a directory" in infer("--config", tmp_path).err
    assert "latin.toml:2: expected UTF-8, found byte 0xe9" in infer("--config", "latin.toml").err


def test_a_password_in_the_file_is_told_to_keep_from_others_and_never_shown_in_an_error(
    infer: Callable[..., Ended], asked: list[InferRequest], tmp_path: Path
) -> None:
    path = config(tmp_path, "sources = ['rtsp://me:secret@host/a']\nsave = 'rtsp.mp4'")
    for mode, warned in ((0o644, True), (0o640, False), (0o600, False)):
        path.chmod(mode)
        assert ("chmod o=" in infer("--config", path).err) == warned
    path.write_text("sources = 'rtsp://me:secret@host/a'")
    wrong = infer("--config", path)
    assert (wrong.code, "secret" in wrong.err) == (2, False)
    printed = infer("rtsp://me:secret@host/a", "--print-config")
    assert "secret" in printed.out
    assert "chmod 600" in printed.err
    assert "secret" not in printed.err


def test_a_worker_has_the_file_as_its_supervisor_read_it(tmp_path: Path) -> None:
    with MjpegStream() as stream:
        bundle = make_bundle(tmp_path / "bundle")
        path = config(tmp_path, f"sources = ['{stream.url}']\nbundle = '{bundle}'\nheadless = true\ntop-k = 2")
        with LiveRun("--config", path) as run:
            run.frames(2)
            path.write_text("being edited = ")
            pid = run.process.pid
            os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()), signal.SIGKILL)
            run.until(lambda: run.events("engine-hung"), what="engine-hung")
            run.frames(2)
            assert len(run.results[-1]["labels"]) == 2
            run.process.terminate()
            assert run.end() == 0


def test_without_a_file_no_toml_is_loaded() -> None:
    code = "import sys, hybrid_edge.runtime.commands.infer; print('tomllib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_example_in_the_docs_is_read_with_and_without_its_comments(
    infer: Callable[..., Ended], asked: list[InferRequest]
) -> None:
    example = ROOT / "docs" / "camera.toml"
    assert infer("--config", example).code == 0
    assert (asked[0].sources, asked[0].as_json, asked[0].window) == (("/dev/video0",), True, False)
    options = re.findall(r"^# ([a-z-]+ = .*)", example.read_text(), re.MULTILINE)
    assert infer("--config", config(Path.cwd(), "\n".join(["camera = [0]", *options]))).code == 0
    assert f"--config /etc/hybrid-edge/{example.name}" in (ROOT / "docs" / "hybrid-edge.service").read_text()
