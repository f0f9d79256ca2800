"""One run killed 50 times at random moments, and a million images from a source that makes them.

    PYTHONPATH=tests python tests/soak/soak_score.py
    PYTHONPATH=tests python tests/soak/soak_score.py --kills 0 --images 100000    # or only one of the two

After the kills every image must be there once, as in a run that nobody killed. The million's engine does nothing but
sleep, so that what is left is hybrid-score's own cost: its memory must not grow, from the first tenth to the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer
from figures import verdict
from support.data.scored import read_rows, write_images
from support.models.bundles import make_bundle

SCORE = [sys.executable, "-m", "hybrid_edge.runtime.commands.score"]
KILLED_IMAGES, KILLED_PART = 6000, 10
GROWTH = 16.0  # MiB that a run may grow from its first tenth to its end
# a process of its own, in which only what makes images and what computes are replaced
SIMULATION = """
import json, resource, sys, time
import fsspec
import numpy as np
from figures import Samples
from support.models.bundles import encode, sample_image
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.commands import score
from hybrid_edge.runtime.score.part_files import PartFolder

images = [encode(sample_image(seed)) for seed in range(64)]
slept = [0.0]
samples = Samples()
done = [0]

class Made(fsspec.AbstractFileSystem):
    protocol = "made"
    def cat_file(self, path, start=None, end=None, **_):
        return images[hash(path) % 64]

def sleep(self, tensors):
    begun = time.monotonic()
    time.sleep(0.001)
    slept[0] += time.monotonic() - begun
    rows = len(next(iter(tensors.values())))
    logits = np.zeros((rows, self.spec.num_classes), np.float32)
    logits[:, 0] = 1
    return logits, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

write = PartFolder.write
def noted(self, record, rows):
    write(self, record, rows)
    done[0] += len(rows)
    samples.note(done[0])

fsspec.register_implementation("made", Made)
OnnxRuntimeCpu._infer = sleep
PartFolder.write = noted
begun = time.monotonic()
try:
    score.main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.monotonic() - begun
    late = samples.after(done[0] / 10)
    figures = dict(wall=wall, slept=slept[0], cpu=used.ru_utime + used.ru_stime, growth=late.growth(),
                   memory=float(late.memory[-1]), threads=late.range(2))
    print("FIGURES " + json.dumps(figures), file=sys.stderr)
"""


def kill_often(folder: Path, kills: int) -> tuple[dict[str, object], dict[str, bool]]:
    """Kill one run so many times, let it end, and compare it with one that nobody killed."""
    bundle = make_bundle(folder / "bundle")
    write_images(folder / "archive", KILLED_IMAGES)
    words = ["archive", "--bundle", bundle, "--part-size", str(KILLED_PART)]
    chance = random.Random(18)
    steps = []
    for number in range(kills):
        process = subprocess.Popen(
            [*SCORE, *words, "--out", "killed"], cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        before = len(list(folder.glob("killed/part-*")))
        # a run's first second or two are imports: every fifth kill may hit these, the others a run that writes
        deadline = time.monotonic() + (chance.uniform(0, 3) if number % 5 == 4 else 60)
        while len(list(folder.glob("killed/part-*"))) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps.append(len(list(folder.glob("killed/part-*"))))
    interrupted = sum(step < KILLED_IMAGES // KILLED_PART for step in steps)
    for out in ("killed", "whole"):
        subprocess.run([*SCORE, *words, "--out", out], cwd=folder, check=True, capture_output=True)
    rows, expected = read_rows(folder / "killed"), read_rows(folder / "whole")
    names = [row["image"] for row in rows]
    left = [path.name for path in (folder / "killed").glob(".*")]
    return (
        {"kills": kills, "before the end": interrupted, "parts at each": steps, "left half-written": len(left)},
        {
            "every image once": len(names) == len(set(names)) == KILLED_IMAGES,
            "equal to a run that nobody killed": rows == expected,
            "kills before the end": interrupted == kills,
        },
    )


def simulate(folder: Path, images: int, batch: int) -> tuple[dict[str, object], dict[str, bool]]:
    """Score so many made images on an engine that sleeps."""
    bundle = make_bundle(folder / "simulated")
    with (folder / "list").open("w") as file:
        file.writelines(f"made://archive/{number:09}.png\n" for number in range(images))
    words = ["--from-list", "list", "--out", "made", "--bundle", bundle, "--no-check", "--json", "--batch", batch]
    program = [sys.executable, "-c", SIMULATION, *map(str, words), "--readers", "2"]
    ended = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise typer.Exit(typer.echo(ended.stderr[-2000:], err=True) or 1)
    summary = json.loads(ended.stdout)
    found = json.loads(ended.stderr.rpartition("FIGURES ")[2])
    sizes = sorted(path.stat().st_size for path in folder.glob("made/part-*"))
    return (
        {
            "images": summary["images"],
            "images/s": round(images / found["wall"]),
            "CPU time an image": f"{found['cpu'] / images * 1e6:.0f} us",
            "time an image beside the engine's": f"{(found['wall'] - found['slept']) / images * 1e6:.0f} us",
            "memory": f"{found['memory']:.0f} MiB",
            "growth after the first tenth": f"{found['growth']:+.1f} MiB",
            "threads": found["threads"],
            "files": len(sizes),
            "bytes a file": f"{sizes[0]} to {sizes[-1]}",
        },
        {
            "every image": summary["images"] == images and summary["complete"],
            f"{GROWTH:g} MiB": found["growth"] < GROWTH,
        },
    )


def main(kills: int = 50, images: int = 1_000_000, batch: int = 64) -> None:
    """Kill a run so many times, then simulate so many images; 0 leaves one out."""
    figures, limits = dict[str, object](), dict[str, bool]()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        for wanted, run in ((kills, kill_often), (images, lambda at, count: simulate(at, count, batch))):
            found = run(Path(name), wanted) if wanted else ({}, {})
            figures |= found[0]
            limits |= found[1]
    verdict("hybrid-score", figures, limits)


if __name__ == "__main__":
    typer.run(main)
