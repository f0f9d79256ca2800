"""hybrid-update on bundles that lie on the disk: what is taken, what is refused, and that the old one stays."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.machines.commands import Ended
from support.models.bundles import SPEC, change_manifest, encode, make_bundle, npz, sample_image, store
from support.models.varied import other_bundle, slow_bundle

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.bundle_store import BundleStore
from hybrid_edge.runtime.commands import update
from hybrid_edge.runtime.errors import RefusedUpdateError
from hybrid_edge.runtime.manifest import MANIFEST
from hybrid_edge.runtime.trust import ANYONE
from hybrid_edge.runtime.update.prove import DeviceProof
from hybrid_edge.runtime.update.update_bundle import UpdateRequest
from hybrid_edge.runtime.update.update_bundle import update as run_update

Call = Callable[..., Ended]


@pytest.fixture
def device(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "device" / "bundle")


@pytest.fixture
def running(device: BundleStore, folder: Path) -> BundleStore:
    """A device with a bundle that hybrid-update installed."""
    install(device, folder)
    return device


def install(device: BundleStore, folder: Path) -> str:
    """Switch to a bundle without proving it, as many tests need one that is there."""
    fingerprint = Bundle.open(folder).fingerprint
    with device.updating():
        shutil.copytree(folder, device.folder(fingerprint))
        device.switch(fingerprint)
    return fingerprint


@pytest.fixture
def taken(call: Call, device: BundleStore) -> Callable[..., Ended]:
    """Runs the command on the device's bundle, with limits that a busy machine keeps."""
    return lambda *arguments: call(
        "hybrid-update", update.main, *arguments, "--bundle", device.link, "--max-slower", 50, "--health", 0
    )


def assert_unchanged(device: BundleStore, fingerprint: str | None) -> None:
    assert device.current == fingerprint
    assert Bundle.open(device.link).fingerprint == fingerprint
    left = {path.name for path in device.versions.iterdir()} - {"lock", "runs", "previous", fingerprint}
    assert left == set()


def test_the_first_bundle_becomes_a_link_and_the_next_one_takes_its_place(
    device: BundleStore, taken: Callable[..., Ended], folder: Path, packed: Path, tmp_path: Path
) -> None:
    first, new = Bundle.open(packed), Bundle.open(other_bundle(tmp_path / "new"))
    done = taken(packed)
    assert (done.code, device.current) == (0, first.fingerprint), done.err
    assert device.link.is_symlink()
    done = taken(new.root)
    assert done.code == 0, done.err
    assert "25.0 % the same label on 64 images" in done.err
    assert (device.current, device.previous) == (new.fingerprint, first.fingerprint)
    assert "runs this bundle already" in taken(new.root).err


def test_a_plain_folder_is_exchanged_for_a_link_and_kept(
    device: BundleStore, taken: Callable[..., Ended], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, device.link)
    before = Bundle.open(device.link).fingerprint
    new = Bundle.open(other_bundle(tmp_path / "new")).fingerprint
    assert taken(tmp_path / "new").code == 0
    assert (device.current, device.previous) == (new, before)
    assert Bundle.open(device.folder(before)).fingerprint == before


def test_a_kill_right_after_the_exchange_loses_no_bundle(device: BundleStore, folder: Path, tmp_path: Path) -> None:
    before = Bundle.open(folder).fingerprint
    install(device, other_bundle(tmp_path / "new"))
    shutil.copytree(folder, device.versions / ".replaced")  # what the exchange leaves there for a moment
    with device.updating():
        assert Bundle.open(device.folder(before)).fingerprint == before


def test_a_link_above_the_bundle_is_followed_once(folder: Path, tmp_path: Path) -> None:
    """``runs/latest`` leads elsewhere after the next training, which is no update of a live run."""
    latest = tmp_path / "latest"
    latest.symlink_to(folder.parent)
    store = BundleStore(latest / folder.name)
    latest.unlink()
    latest.symlink_to(tmp_path / "next")
    assert store.wanted() == folder


def test_it_goes_back_to_the_bundle_before_and_forth_again(running: BundleStore, call: Call, tmp_path: Path) -> None:
    first, second = running.current, install(running, other_bundle(tmp_path / "new"))
    arguments = ("--back", "--bundle", running.link, "--json")
    assert call("hybrid-update", update.main, *arguments).lines == [
        {"fingerprint": first, "before": second, "switched": True, "compared": None, "watched": 0}
    ]
    assert call("hybrid-update", update.main, *arguments).lines[0]["fingerprint"] == second
    assert running.current == second


def test_there_is_no_way_back_from_the_first_bundle(running: BundleStore, call: Call) -> None:
    refused = call("hybrid-update", update.main, "--back", "--bundle", running.link)
    assert refused.code == 1
    assert "installed over another, found none" in refused.err


def test_as_many_old_bundles_stay_as_are_to_be_kept(device: BundleStore, tmp_path: Path) -> None:
    versions = [install(device, other_bundle(tmp_path / str(seed), seed)) for seed in range(5)]
    for age, name in enumerate(reversed(versions)):
        os.utime(device.folder(name), (time.time() - age, time.time() - age))
    with device.updating():
        assert device.prune(2) == [versions[1], versions[0]]
        assert device.prune(2) == []
        assert device.prune(0) == [versions[3], versions[2]]
    assert (device.current, device.previous) == (versions[4], None)


def test_versions_that_are_there_are_not_brought_again(
    running: BundleStore, taken: Callable[..., Ended], tmp_path: Path
) -> None:
    new = Bundle.open(other_bundle(tmp_path / "new"))
    assert taken(new.root).code == 0
    assert taken("--back", "--json").code == 2  # --health goes with no --back
    running.switch(running.previous or "")
    done = taken("/absent.tar", "--expect-sha256", new.fingerprint)
    assert (done.code, running.current) == (0, new.fingerprint), done.err


def test_a_bundle_that_computes_something_else_here_is_refused(
    running: BundleStore, taken: Callable[..., Ended], tmp_path: Path
) -> None:
    before, new = running.current, make_bundle(tmp_path / "new")
    manifest = Bundle.open(new).manifest
    outputs = Bundle.open(new).golden_outputs(manifest.variants[0])
    others = store(new, "golden", "npz", npz({"logits": outputs.logits, "probabilities": outputs.probabilities[::-1]}))
    change_manifest(new, variants=(manifest.variants[0].model_copy(update={"golden": others}),))
    refused = taken(new)
    assert refused.code == 3
    assert "computes something else than the exporter did" in refused.err
    assert_unchanged_but_for(running, before, new)


def assert_unchanged_but_for(device: BundleStore, before: str | None, refused: Path) -> None:
    """The old bundle runs; the refused one may lie beside it until it is pruned."""
    assert device.current == before
    assert device.previous is None
    assert device.trial is None
    kept = Bundle.open(refused).fingerprint
    assert {path.name for path in device.versions.iterdir()} <= {"lock", "runs", before, kept}


def test_a_bundle_that_is_slower_than_allowed_is_refused(running: BundleStore, call: Call, tmp_path: Path) -> None:
    before, new = running.current, slow_bundle(tmp_path / "slow")
    refused = call("hybrid-update", update.main, new, "--bundle", running.link, "--max-slower", 1.5)
    assert refused.code == 3
    assert "expected at most 1.5 times the time of the bundle that runs" in refused.err
    assert_unchanged_but_for(running, before, new)


def test_a_bundle_that_is_less_accurate_on_kept_frames_is_refused(
    running: BundleStore, taken: Callable[..., Ended], tmp_path: Path
) -> None:
    before, new = running.current, other_bundle(tmp_path / "new")
    kept = tmp_path / "kept"
    bundle = Bundle.open(running.link)
    from hybrid_edge.runtime import Classifier

    with Classifier.load(bundle, backend="cpu") as classifier:
        for seed in range(24):
            image = sample_image(seed)
            folder = kept / classifier.predict([image])[0].label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{seed}.png").write_bytes(encode(image))
    refused = taken(new, "--frames", kept)
    assert refused.code == 3
    assert "100.0 % before and" in refused.err
    assert_unchanged_but_for(running, before, new)
    accepted = taken(new, "--frames", kept, "--max-drop", 100)
    assert accepted.code == 0
    assert "(before 100.0 %)" in accepted.err


@pytest.mark.parametrize(
    ("module", "does", "arguments", "said"),
    [
        ("sitecustomize", "import time; time.sleep(60)", ["--timeout", 1], "found that it hangs"),
        ("onnxruntime", "import os; os.kill(os.getpid(), 11)", [], "it was ended by SIGSEGV"),
    ],
)
def test_a_bundle_on_which_the_engine_hangs_or_crashes_is_refused(
    running: BundleStore,
    taken: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    does: str,
    arguments: list[object],
    said: str,
) -> None:
    before, new = running.current, other_bundle(tmp_path / "new")
    (tmp_path / f"{module}.py").write_text(does)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    refused = taken(new, *arguments)
    assert refused.code == 1
    assert said in refused.err
    assert_unchanged_but_for(running, before, new)


@pytest.mark.parametrize("damaged", ["golden", "artifacts"])
def test_a_damaged_bundle_is_refused_before_anything_runs_it(
    running: BundleStore, taken: Callable[..., Ended], tmp_path: Path, damaged: str
) -> None:
    before, new = running.current, other_bundle(tmp_path / "new")
    path = next((new / damaged).iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused = taken(new)
    assert refused.code == 1
    assert "SHA-256" in refused.err
    assert_unchanged(running, before)


def test_a_bundle_that_is_not_the_one_expected_is_refused(
    running: BundleStore, taken: Callable[..., Ended], tmp_path: Path
) -> None:
    before = running.current
    refused = taken(other_bundle(tmp_path / "new"), "--expect-sha256", "ab" * 32)
    assert refused.code == 1
    assert "expected a bundle with the fingerprint" in refused.err
    assert_unchanged(running, before)


def test_an_address_without_signature_or_fingerprint_is_wrong_usage(taken: Callable[..., Ended]) -> None:
    refused = taken("http://127.0.0.1:9/bundle.tar")
    assert refused.code == 2
    assert "--require-signature" in refused.err


@pytest.mark.parametrize("kind", ["tar", "other folder"])
def test_only_a_bundle_s_folder_or_nothing_can_become_a_link(
    device: BundleStore, taken: Callable[..., Ended], folder: Path, kind: str
) -> None:
    device.link.parent.mkdir()
    if kind == "tar":
        device.link.write_bytes(b"")
    else:
        (device.link / "photos").mkdir(parents=True)
    assert taken(folder).code == 1
    assert not device.link.is_symlink()


def test_a_full_disk_leaves_the_old_bundle_and_no_remains(
    running: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, new = running.current, slow_bundle(tmp_path / "large")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            run_update(UpdateRequest(str(new), running.link))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handled)
    assert_unchanged(running, before)


def test_one_update_at_a_time(running: BundleStore, taken: Callable[..., Ended], tmp_path: Path) -> None:
    with running.updating():
        refused = taken(other_bundle(tmp_path / "new"))
    assert refused.code == 1
    assert "found one under way" in refused.err


def test_an_update_that_is_killed_at_any_moment_leaves_a_whole_bundle(running: BundleStore, tmp_path: Path) -> None:
    """A hundred moments are tried by tests/soak/soak_update.py."""
    before, new = running.current, Bundle.open(other_bundle(tmp_path / "new"))
    command = [sys.executable, "-m", "hybrid_edge.runtime.commands.update", str(new.root), "--max-slower", "50"]
    moments = random.Random(19)
    for _ in range(6):
        process = subprocess.Popen([*command, "--bundle", str(running.link)], stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.2, 2))
        process.kill()
        process.wait()
        assert running.trial is None
        assert Bundle.open(running.link, ANYONE).fingerprint in (before, new.fingerprint)
        if running.current == new.fingerprint:  # it was done already
            running.switch(before or "")
    assert subprocess.run([*command, "--bundle", str(running.link)], check=False).returncode == 0
    assert running.current == new.fingerprint
    assert not list(running.versions.glob(".*"))


def test_labels_may_change_and_are_then_not_compared(
    running: BundleStore, taken: Callable[..., Ended], tmp_path: Path
) -> None:
    done = taken(make_bundle(tmp_path / "new", SPEC.replace(class_labels=("one", "two"))))
    assert done.code == 0, done.err
    assert "beside the bundle" not in done.err


def test_a_broken_bundle_can_be_updated(running: BundleStore, taken: Callable[..., Ended], tmp_path: Path) -> None:
    (running.link / MANIFEST).write_text("{}")
    done = taken(other_bundle(tmp_path / "new"))
    assert done.code == 0, done.err
    assert "is not compared with" in done.err


def test_a_comparison_without_a_single_frame_says_so(running: BundleStore, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    new = Bundle.open(other_bundle(tmp_path / "new"))
    with pytest.raises(Exception, match="found") as refused:
        DeviceProof(frames=empty).compare(new, Bundle.open(running.link))
    assert not isinstance(refused.value, RefusedUpdateError)


def test_a_bundle_on_trial_is_proven_though_it_passed_here_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    bundle = Bundle.open(folder)
    DeviceProof().check_alone(bundle)
    note = next((tmp_path / "cache").rglob("*.golden"))
    os.utime(note, (0, 0))
    DeviceProof().check_alone(bundle)
    assert note.stat().st_mtime > 0  # written anew, as the examples ran
