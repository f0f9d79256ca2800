"""Damaged pictures and videos through decoding, in processes of their own: none ends one, takes much memory or long.

    PYTHONPATH=tests python tests/soak/soak_decoding.py [--pictures 100000] [--videos 2000] [--seconds 60]

Each file is a whole one with bytes flipped, cut, put in, moved or taken from another, by a generator with the number's
seed, so that ``--only "mp4 1234"`` does one again and keeps it. ``--videos`` counts for each container. Files that
FFmpeg would make are left out where it is not there.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import typer
from figures import rss, verdict
from support.models.bundles import encode, sample_image

from hybrid_edge.runtime.errors import ImageError
from hybrid_edge.runtime.image_headers import PNG_SIGNATURE
from hybrid_edge.runtime.preprocess import decode_image
from hybrid_edge.runtime.sources.video import read_video

WAIT = 20.0  # seconds for one file; a picture of MAX_PIXELS takes some
MEMORY = 2048.0  # MiB above the process's own; MAX_PIXELS of 16 bits and four channels are 1024
PROCESSES = 2
PICTURES = (".jpg", ".png", ".webp", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm")
VIDEOS = {  # suffix -> FFmpeg's options
    "mp4": "-c:v libx264 -preset ultrafast",
    "mov": "-c:v mpeg4",
    "mkv": "-c:v libx264 -preset ultrafast",
    "webm": "-c:v libvpx -deadline realtime",
    "avi": "-c:v mjpeg",
    "ts": "-c:v libx264 -preset ultrafast",
    "flv": "-c:v flv1",
    "wmv": "-c:v wmv2",
    "mpg": "-c:v mpeg2video",
    "ogv": "-c:v libtheora",
    "3gp": "-c:v mpeg4",
    "hevc": "-c:v libx265 -preset ultrafast",
}
INTERESTING = np.array([0, 1, 0x7F, 0x80, 0xFE, 0xFF], np.uint8)


def originals(folder: Path) -> dict[str, list[bytes]]:
    """Whole files by kind: ``picture``, and each container."""
    pictures = [sample_image(seed, 48, 64) for seed in range(3)]
    kinds = {"picture": [encode(frame, end) for end in PICTURES if cv2.haveImageWriter(end) for frame in pictures]}
    if shutil.which("ffmpeg"):
        for suffix, options in VIDEOS.items():
            path = folder / f"whole.{suffix}"
            made = ["ffmpeg", "-v", "quiet", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=10:duration=1"]
            command = [*made, *options.split(), str(path)]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                kinds[suffix] = [path.read_bytes()]
    return kinds


def damaged(files: list[bytes], kind: str, number: int) -> bytes:
    """The file of that number: one of the whole ones after some mutations, half of them near its beginning."""
    rng = np.random.default_rng([number, *kind.encode()])
    data = np.frombuffer(files[number % len(files)], np.uint8).copy()
    for _ in range(rng.integers(1, 5)):
        within = min(len(data), 512) if rng.random() < 0.5 else len(data)
        start = int(rng.integers(max(within, 1)))
        length = int(rng.integers(1, 9))
        match rng.integers(8):
            case 0 | 1:
                data[start : start + 1] ^= np.uint8(1 << rng.integers(8))
            case 2:
                data[start : start + length] = rng.choice(INTERESTING)
            case 3:
                data[start : start + length] = rng.integers(0, 256, len(data[start : start + length]), np.uint8)
            case 4:
                data = np.delete(data, np.s_[start : start + length])
            case 5:
                data = np.insert(data, start, rng.integers(0, 256, length, np.uint8))
            case 6:
                other = np.frombuffer(files[rng.integers(len(files))], np.uint8)
                data = np.concatenate([data[:start], other[rng.integers(len(other)) :]])
            case _:
                data = data[: max(start, 8)] if rng.random() < 0.3 else np.roll(data, length)
    return with_checksums(data.tobytes()) if rng.random() < 0.5 else data.tobytes()


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right for what its chunks now hold, so that the decoder sees it; others as they are."""
    position, fixed = 8, bytearray(data)
    while data.startswith(PNG_SIGNATURE) and position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        fixed[end : end + 4] = zlib.crc32(data[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(fixed[: len(data)])


def decode(data: bytes, kind: str, folder: Path) -> str:
    """Decode one file as hybrid-infer does; return what came of it."""
    if kind == "picture":
        try:
            frame = decode_image(data)
        except ImageError:
            return "refused"
        return "read" if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 else "NO PICTURE"
    path = folder / f"damaged.{kind}"
    path.write_bytes(data)
    outcomes = Counter("refused" if frame.image is None else "read" for frame in read_video(path, "refused"))
    return "read" if outcomes["read"] else "refused"


def work(link: Connection, files: dict[str, list[bytes]], numbers: list[tuple[str, int]]) -> None:
    """Decode the files of these numbers, and say before each which it is, and after it what came."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg and libpng print a line for each fault
    with tempfile.TemporaryDirectory() as folder:
        start = rss()
        for kind, number in numbers:
            data = damaged(files[kind], kind, number)
            link.send((kind, number, "begun"))
            try:
                outcome = decode(data, kind, Path(folder))
            except Exception as error:  # any is a finding
                outcome = f"{type(error).__name__}: {error}"
            memory = peak() - start
            if memory > MEMORY:
                outcome = f"{memory:.0f} MiB"
            link.send((kind, number, outcome))
    link.send(None)


def peak() -> float:
    """Most resident memory of this process since it was asked last, MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return int(fields["VmHWM"].split()[0]) / 1024


def watched(files: dict[str, list[bytes]], numbers: list[tuple[str, int]], until: float) -> Iterator[tuple[str, str]]:
    """Yield each file's name and what came of it; a process that ends or hangs is a finding, and another goes on."""
    context = multiprocessing.get_context("spawn")
    while numbers and time.monotonic() < until:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, files, numbers), daemon=True)
        process.start()
        theirs.close()
        kind, number, outcome = *numbers[0], "begun"
        try:
            while time.monotonic() < until and ours.poll(WAIT + 10):
                message = ours.recv()
                if message is None:
                    return
                kind, number, outcome = message
                if outcome != "begun":
                    yield f"{kind} {number}", outcome
            outcome = "" if time.monotonic() >= until else f"took over {WAIT:.0f} s"
        except EOFError:
            process.join()
            outcome = f"ENDED THE PROCESS with {process.exitcode}"
        process.kill()
        if outcome:
            yield f"{kind} {number}", outcome
        numbers = numbers[numbers.index((kind, number)) + 1 :]


def main(pictures: int = 100_000, videos: int = 2_000, seconds: float = 1e9, only: str = "") -> None:
    """Damage, decode and judge."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = originals(Path(folder))
        if only:
            kind, number = only.split()
            data = damaged(files[kind], kind, int(number))
            Path(f"{kind}-{number}").write_bytes(data)
            typer.echo(decode(data, kind, Path(folder)))
            return
        counts = {kind: pictures if kind == "picture" else videos for kind in files}
        # each kind's share of a run that is ended early is as large as of a whole one
        todo = sorted(((number / count, kind, number) for kind, count in counts.items() for number in range(count)))
        outcomes, findings = Counter[str](), []

        def part(index: int) -> None:
            mine = [(kind, number) for _, kind, number in todo[index::PROCESSES]]
            for name, outcome in watched(files, mine, begun + seconds):
                outcomes[f"{name.split()[0]} {outcome}" if outcome in ("read", "refused") else "finding"] += 1
                if outcome not in ("read", "refused"):
                    findings.append(f"{name}: {outcome}")
                    typer.echo(findings[-1], err=True)

        with ThreadPoolExecutor(PROCESSES) as pool:
            list(pool.map(part, range(PROCESSES)))
    done = sum(outcomes.values())
    verdict(
        "soak_decoding",
        {
            "files": f"{done} of {len(todo)} in {time.monotonic() - begun:.0f} s",
            "read": sum(count for name, count in outcomes.items() if name.endswith("read")),
            "findings": len(findings),
        },
        {"findings": not findings, "files": done == len(todo) or seconds < 1e9},
    )


if __name__ == "__main__":
    typer.run(main)
