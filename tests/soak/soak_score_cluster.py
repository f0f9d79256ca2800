"""20,000 images on a Ray cluster of two nodes of this machine, of which a worker and then a node are killed.

    PYTHONPATH=tests python tests/soak/soak_score_cluster.py

Needs the extra `scale`; without Ray it says so and ends. What is compared is every row, with those of one process.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from figures import verdict
from support.data.scored import Rows, read_rows, write_images
from support.models.bundles import make_bundle

SCORE = [sys.executable, "-m", "hybrid_edge.runtime.commands.score"]
STORE = 100 * 2**20  # bytes of a node's object store
DEADLINE = 1200.0  # seconds for one run


def score(folder: Path, out: str, *options: object, meanwhile: Callable[[int], None] | None = None) -> dict[str, float]:
    """Score the archive; return the seconds it took and those of the process's own CPU time."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = [*SCORE, "archive", "--out", out, "--part-size", "100", *map(str, options)]
    with (folder / f"{out}.log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
        while process.poll() is None:
            if meanwhile is not None:
                meanwhile(len(list(folder.glob(f"{out}/part-*"))))
            if time.monotonic() - begun > DEADLINE:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode:
        typer.echo(f"{out} ended with {process.returncode}\n{(folder / f'{out}.log').read_text()}", err=True)
        raise typer.Exit(1)
    return {"seconds": time.monotonic() - begun, "cpu": cpu}


def kill_one_worker() -> None:
    """SIGKILL one process that runs an engine's actor on this machine."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"EngineActor" in name:
            os.kill(int(entry.name), signal.SIGKILL)
            return


class Killing:
    """Kills a worker after a quarter of the parts and a node after the half, once each."""

    def __init__(self, cluster: Any, node: Any, parts: int) -> None:
        self._cluster, self._node = cluster, node
        self._parts = parts
        self.worker_at = self.node_at = 0

    def __call__(self, done: int) -> None:
        if not self.worker_at and done >= self._parts // 4:
            self.worker_at = done
            kill_one_worker()
        elif not self.node_at and done >= self._parts // 2:
            self.node_at = done
            self._cluster.remove_node(self._node, allow_graceful=False)


def in_order(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: row["image"])


def main(images: int = 20_000) -> None:
    """Score so many images in one process, on one node, on two, and on two of which one dies."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError as error:
        typer.echo(f"Ray is not here ({error}): pip install 'hybrid-edge[scale]'")
        return
    taken = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = make_bundle(folder / "bundle")
        write_images(folder / "archive", images)
        taken["one process"] = score(folder, "one", "--bundle", bundle, "--threads", 1)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
        try:
            there = ("--bundle", bundle, "--ray", cluster.address)
            taken["one worker"] = score(folder, "ray1", *there)
            node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
            cluster.wait_for_nodes()
            taken["two workers"] = score(folder, "ray2", *there)
            killing = Killing(cluster, node, images // 100)
            taken["two, a worker and a node killed"] = score(folder, "killed", *there, meanwhile=killing)
        finally:
            cluster.shutdown()
        one, *others = (in_order(read_rows(folder / out)) for out in ("one", "ray1", "ray2", "killed"))
        verdict(
            "hybrid-score on Ray",
            {
                "images": images,
                "worker killed at part": killing.worker_at,
                "node at part": killing.node_at,
                "images/s": {run: round(images / found["seconds"]) for run, found in taken.items()},
                "driver's CPU seconds": {run: round(found["cpu"], 1) for run, found in taken.items()},
            },
            {
                "every image once": len({row["image"] for row in one}) == len(one) == images,
                "rows equal to one process's": all(rows == one for rows in others),
                "both were killed": bool(killing.worker_at and killing.node_at),
            },
        )


if __name__ == "__main__":
    typer.run(main)
