"""Updates that are killed at 100 random moments beside a live run, and one for each way in which an update can fail.

    PYTHONPATH=tests python tests/soak/soak_update.py [--kills 100]

The live run must classify every frame of its stream, whatever happens to the updates, and the device's link must lead
to a whole bundle after each kill: the old one, unless the kill came after the last line of a finished update.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from figures import verdict
from support.live.run import LiveRun
from support.models.bundles import change_manifest, make_bundle, npz, store
from support.models.varied import failing_bundle, other_bundle, slow_bundle
from support.streams.servers import MjpegStream

from hybrid_edge.export.bundle.publish import publish
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.bundle_store import BundleStore
from hybrid_edge.runtime.trust import ANYONE

UPDATE = [sys.executable, "-m", "hybrid_edge.runtime.commands.update"]
HEALTH = ["--health", "2", "--max-slower", "50"]
WHOLE_UPDATE = 12.0  # seconds, within which kills come: about as long as an update takes beside a live run


class Server(ThreadingHTTPServer):
    """Serves one file, slowly enough to be cut in the middle; ``cut`` breaks every answer off."""

    content, cut = b"", False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/bundle.tar"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's file."""

    server: Server

    def do_GET(self) -> None:
        content = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        for begin in range(0, len(content) // 2 if self.server.cut else len(content), 4096):
            self.wfile.write(content[begin : begin + 4096])
            time.sleep(0.01)

    def log_message(self, *_: Any) -> None:
        pass


def update(*arguments: object, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run an update to its end, through the program ``before``."""
    return subprocess.run([*before, *UPDATE, *map(str, arguments)], capture_output=True, text=True, check=False)


def kill_at_random(device: BundleStore, sources: Sequence[Path], kills: int, seed: int) -> Counter[str]:
    """Kill updates to two bundles in turn, and count where the link leads afterwards."""
    moments, found = random.Random(seed), Counter[str]()
    prints = [Bundle.open(source, ANYONE).fingerprint for source in sources]
    for _ in range(kills):
        before = device.current
        new = sources[prints.index(before) ^ 1]
        words = [*UPDATE, str(new), "--bundle", str(device.link), *HEALTH, "--json"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Timer(moments.uniform(0, WHOLE_UPDATE), process.kill).start()
        out, _ = process.communicate()
        after = Bundle.open(device.link, ANYONE)
        for record in after.manifest.files.values():
            after.verified(record)
        if after.fingerprint == before:
            found["the old one runs"] += 1
        else:
            found["finished before the kill" if out or process.returncode else "switched, and not yet said"] += 1
    return found


def fail_in_every_way(device: BundleStore, folder: Path, server: Server) -> dict[str, tuple[int, bool]]:
    """Try an update for each way to fail; return its exit code, and whether the old bundle stayed."""
    other = other_bundle(folder / "another", 11)
    golden = make_bundle(folder / "golden")
    (variant,) = Bundle.open(golden).manifest.variants
    outputs = Bundle.open(golden).golden_outputs(variant)
    wrong = store(
        golden, "golden", "npz", npz({"logits": outputs.logits, "probabilities": outputs.probabilities[::-1]})
    )
    change_manifest(golden, variants=(variant.model_copy(update={"golden": wrong}),))
    fingerprint = Bundle.open(other).fingerprint
    server.content = (publish(other, tar=True).tar or other).read_bytes()
    server.cut = True
    slow = slow_bundle(folder / "slow")
    ways: dict[str, list[object]] = {
        "network cut": [server.url, "--expect-sha256", fingerprint],
        "another fingerprint": [other, "--expect-sha256", "ab" * 32],
        "not signed": [other, "--require-signature", public_key(folder)],
        "full disk": [slow, "--no-compare"],
        "golden check fails": [golden],
        "slower": [slow, "--max-slower", 1.5],
        "hangs": [other, "--timeout", 1],
        "fails on live frames": [failing_bundle(folder / "failing"), *HEALTH],
    }
    found = {}
    for name, arguments in ways.items():
        running = device.current
        full = ["prlimit", "--fsize=10000"] if name == "full disk" else []
        code = update(*arguments, "--bundle", device.link, before=full).returncode
        found[name] = (code, device.current == running and Bundle.open(device.link).fingerprint == running)
    return found


def public_key(folder: Path) -> Path:
    """Write a public key of which nobody has the private one."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = folder / "key.pub"
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def main(kills: int = 100, seed: int = 19) -> None:
    """Run both parts, print what was found, and exit 1 where a bundle was broken or a frame lost."""
    with tempfile.TemporaryDirectory() as name, MjpegStream(fps=10) as stream:
        folder = Path(name)
        sources = [make_bundle(folder / "first"), other_bundle(folder / "second")]
        device = BundleStore(folder / "device" / "bundle")
        first = update(sources[0], "--bundle", device.link)
        if first.returncode:
            raise SystemExit(first.stderr)
        options = ["--bundle", device.link, "--every-frame", "--headless", "--backend", "cpu"]
        with LiveRun(stream.url, *options) as live:
            live.frames(5)
            found = kill_at_random(device, sources, kills, seed)
            stream.picture = white
            with Server() as server:
                failed = fail_in_every_way(device, folder, server)
                server.shutdown()
            live.frames(20)
            numbers = [line["frame"] for line in live.results]
            lost = numbers[-1] - numbers[0] + 1 - len(numbers)
            changes = len(live.events("bundle-changed"))
    for way, (code, stayed) in failed.items():
        typer.echo(f"{way}: exit code {code}, {'the old one runs' if stayed else 'THE OLD ONE IS GONE'}")
    figures = {"kills": dict(found), "frames": len(numbers), "lost": lost, "changes": changes}
    limits = {
        "a frame was lost": lost == 0,
        "an update that fails keeps the old bundle": all(code and stayed for code, stayed in failed.values()),
    }
    verdict("soak_update", figures, limits)


def white(width: int, height: int, _: float | None = None) -> Any:
    """A frame that is bright everywhere, for which ``failing_bundle`` gives NaN."""
    return np.full((height, width, 3), 255, np.uint8)


if __name__ == "__main__":
    typer.run(main)
