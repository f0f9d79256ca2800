"""Takes a device from one bundle to the next: fetched, verified, proven, tried in live runs, and only then switched to.

Until the one commit, the switch of a link, everything is as it was, whatever fails, hangs or is killed.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import console
from ..bundle import Bundle, unpack
from ..bundle_store import BundleStore, require_link
from ..console import say, waiting
from ..errors import BundleError, UpdateError, UsageError
from ..manifest import MANIFEST
from ..sources.names import display_name
from ..storage import flush
from ..trust import ANYONE, SIGNATURE, Trust
from .fetch import MIB, fetch, is_address
from .prove import DeviceProof
from .watch import Watch

MAX_SIZE = 4096  # MiB; the full-size reference in three precisions has 600


@dataclass(frozen=True)
class UpdateRequest:
    """What a call of ``hybrid-update`` asks for; each field is the option of that name, which ``--help`` explains.

    Attributes:
        source: an address or a path: a bundle's tar or, a path alone, its folder.
        bundle: the link that live runs open, made where there is nothing yet.
        compares: whether the new bundle is run beside the old one.
        health: seconds for which live runs try it; 0 leaves that out.

    Raises:
        UsageError: an address is given and nothing by which to know whose bundle it is.
    """

    source: str
    bundle: Path = Path("bundle")
    trust: Trust = field(default_factory=Trust)
    proof: DeviceProof = field(default_factory=DeviceProof)
    compares: bool = True
    health: float = 30.0
    keep: int = 2
    max_size: int = MAX_SIZE

    def __post_init__(self) -> None:
        if is_address(self.source) and not self.trust.fingerprints and self.trust.required_signer is None:
            raise UsageError(
                f"{display_name(self.source)}: expected --require-signature KEY.pub or --expect-sha256 HEX with an "
                "address, found neither: whoever is in between could send any bundle"
            )


@dataclass(frozen=True)
class Updated:
    """What became of an update.

    Attributes:
        fingerprint: of the bundle that runs now.
        before: of the one that ran; None where there was none, or it was no version of the store.
        switched: whether that changed anything.
        compared: what was measured of both, see ``DeviceProof.compare``; None where nothing was.
        watched: how many live runs tried it.
    """

    fingerprint: str
    before: str | None
    switched: bool
    compared: dict[str, Any] | None = None
    watched: int = 0


def update(request: UpdateRequest) -> Updated:
    """Install a bundle, prove it on this device, try it in the live runs, and make it the one that runs.

    Raises:
        TrustError: the bundle has not the fingerprint or the signature.
        BundleError: it is no bundle, or a damaged one.
        GateError: this device computes something else than the exporter did, or the new one is slower, less accurate,
            or fails while it is tried.
        UpdateError: it can't be fetched, or does not run here; or another update is under way.
    """
    store = BundleStore(request.bundle)
    require_link(store)
    with store.updating():
        new = _install(request, store)
        old = _running(store)
        if old is not None and old.fingerprint == new.fingerprint and store.current is not None:
            say(f"{store.link}: runs this bundle already")
            return Updated(new.fingerprint, new.fingerprint, switched=False)
        updated = _prove(request, store, new, old)
        store.switch(new.fingerprint)
        store.prune(request.keep)
    return updated


def go_back(bundle: Path) -> Updated:
    """Make the bundle that ran before the one that runs; it was proven then, and is not again.

    Raises:
        UpdateError: there is none, or another update is under way.
    """
    store = BundleStore(bundle)
    if store.current is None or store.previous is None:
        raise UpdateError(f"{store.link}: expected a bundle that hybrid-update has installed over another, found none")
    with store.updating():
        before, back = store.current, store.previous
        store.switch(back)
    return Updated(back, before, switched=True)


def _prove(request: UpdateRequest, store: BundleStore, new: Bundle, old: Bundle | None) -> Updated:
    proof, compared, watched = request.proof, None, 0
    with waiting("running its golden examples"):
        proof.check_alone(new)
    say("golden examples: as the exporter's")
    same_labels = old is not None and old.labels == new.labels
    if old is not None and set(old.labels) == set(new.labels) and request.compares:
        with waiting("running it beside the bundle that runs"):
            compared = proof.compare(new, old)
        say(_told(compared))
    if request.health and same_labels:
        watch = Watch(store)
        watched = watch.runs
        if watched:
            with waiting(f"watching {watched} live run(s) try it for {request.health:g} s"):
                watch.try_out(new.fingerprint, request.health, proof.max_slower, proof.timeout)
    elif request.health and old is not None:
        say("other labels than before: live runs start anew with it, and are not watched")
    return Updated(new.fingerprint, old.fingerprint if old else None, True, compared, watched)


def _running(store: BundleStore) -> Bundle | None:
    """Open the bundle that runs now; None where there is none, or a broken one that nothing can be compared with."""
    if not (store.link / MANIFEST).exists():
        return None
    try:
        return Bundle.open(store.link, ANYONE)
    except BundleError as error:
        say(f"the bundle that is there is not compared with: {error}", style="yellow")
        return None


def _install(request: UpdateRequest, store: BundleStore) -> Bundle:
    """Bring a source's bundle among the versions, verified whole; one that is there already is not fetched again."""
    for known in request.trust.fingerprints:
        if store.folder(known).is_dir():
            return _verified(store.folder(known), request.trust)
    downloaded = _download(request, store.versions) if is_address(request.source) else None
    staging = store.versions / ".incoming"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        _fill(staging, downloaded or Path(request.source))
        new = _verified(staging, request.trust)
        for path in (*staging.rglob("*"), staging):
            flush(path)
        target = store.folder(new.fingerprint)
        if not target.is_dir():
            staging.rename(target)
            flush(store.versions)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if downloaded is not None:
        for path in store.versions.glob(".download-*"):
            path.unlink()
    return Bundle.open(target, request.trust)


def _verified(folder: Path, trust: Trust) -> Bundle:
    bundle = Bundle.open(folder, trust)
    for record in bundle.manifest.files.values():
        bundle.verified(record)
    return bundle


def _fill(staging: Path, source: Path) -> None:
    """Unpack a tar, or copy the files that a folder's manifest names, into a new folder."""
    if source.is_file() and source.name != MANIFEST:
        unpack(source, staging)
        return
    bundle = Bundle.open(source, ANYONE)
    names = [MANIFEST, *bundle.manifest.files, *([SIGNATURE] if (bundle.root / SIGNATURE).is_file() else [])]
    for name in names:
        (staging / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(bundle.root / name, staging / name, follow_symlinks=False)


def _download(request: UpdateRequest, folder: Path) -> Path:
    bar = console.progress(unit="MiB", transient=True)
    with bar:
        task = bar.add_task("fetching", total=None)

        def show(found: int, total: int | None) -> None:
            bar.update(task, completed=found // MIB, total=None if total is None else total // MIB)

        begun = time.monotonic()
        path = fetch(request.source, folder, request.max_size * MIB, show)
    say(f"fetched {path.stat().st_size / MIB:.1f} MiB in {time.monotonic() - begun:.0f} s")
    return path


def _told(compared: dict[str, Any]) -> str:
    accuracy = ""
    if compared["accuracy"] is not None:
        accuracy = f"{100 * compared['accuracy']:.1f} % right (before {100 * compared['accuracy_before']:.1f} %), "
    return (
        f"beside the bundle that runs: {accuracy}{100 * compared['agreement']:.1f} % the same label on "
        f"{compared['images']} images, {compared['slower']:.2f} times its time"
    )
