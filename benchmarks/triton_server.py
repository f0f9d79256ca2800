"""A Triton server beside hybrid-infer's Classifier, on the same cores: images a second and latency under load.

    make test-triton   # makes the environment
    PYTHONPATH=tests .venv-triton/bin/python benchmarks/triton_server.py BUNDLE [--variant fp32-cpu] [--images DIR]

Each round classifies the same image files: the Classifier in batches of 8, in one process; the server through its
ensemble with one client and with several, each of which sends its next file once its answer is there, as perf_analyzer
does. Clients run on the server's cores too, which a network's would not. Server and Classifier run the same variant on
the same engine, so that the difference is what serving costs, and what several processes gain. The CPU time of an
image, the server's without its clients', means something on a busy machine too.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from interleave import Report, interleave
from support.models.bundles import encode, sample_image
from support.triton.tritonserver import TritonProcess

from hybrid_edge.export.triton.model_config import ENCODED, ensemble_name
from hybrid_edge.export.triton.repository import write_repository
from hybrid_edge.export.triton.server_client import TritonServer
from hybrid_edge.runtime.backends.selection import open_variant
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.preprocess import decode_image

ALONE = "Classifier, batches of 8"


def main(
    bundle: Path,
    variant: Annotated[str, typer.Option(help="which of the bundle's")] = "fp32-cpu",
    images: Annotated[Path | None, typer.Option(help="JPEG and PNG files (default: made ones, 400 x 300)")] = None,
    count: Annotated[int, typer.Option(help="files in a round")] = 400,
    rounds: int = 5,
) -> None:
    """Measure, print and keep ``results/triton_server.json``."""
    opened = Bundle.open(bundle)
    chosen = next(item for item in opened.manifest.variants if item.name == variant)
    files = _files(images, count)
    report = Report("triton_server", ("hybrid-edge", "onnxruntime", "numpy", "nvidia-pytriton", "tritonclient"))
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_repository(opened, models, precisions=[chosen.precision], python=True)
        with (
            TritonProcess(models, [ensemble_name(chosen)], Path(folder) / "log") as server,
            Classifier(opened, open_variant(opened, chosen), check=False) as classifier,
            TritonServer(server.http) as counter,
        ):
            latencies: dict[str, list[float]] = {}
            cpu: dict[str, list[float]] = {}

            def served(address: str, name: str, clients: int) -> None:
                before = _cpu_seconds(server.process.pid)
                latencies.setdefault(name, []).extend(_ask_all(address, ensemble_name(chosen), files, clients))
                cpu.setdefault(name, []).append(_cpu_seconds(server.process.pid) - before)

            def alone() -> None:
                before = time.process_time()
                _predict_all(classifier, files)
                cpu.setdefault(ALONE, []).append(time.process_time() - before)

            cases = {
                ALONE: alone,
                "gRPC, 1 client": lambda: served(server.grpc, "gRPC, 1 client", 1),
                "gRPC, 8 clients": lambda: served(server.grpc, "gRPC, 8 clients", 8),
                "HTTP, 8 clients": lambda: served(server.http, "HTTP, 8 clients", 8),
            }
            before = counter.counts(variant)
            timings = interleave(cases, rounds=rounds)
            rows, executions = np.subtract(counter.counts(variant), before).tolist()
    report.add(f"{len(files)} files, {variant}", timings, ALONE, unit="s", bundle=bundle.resolve().parent.name)
    report.add_facts(
        "under load",
        images_per_second={name: round(len(files) / float(np.median(times)), 1) for name, times in timings.items()},
        p50_ms={name: round(float(np.percentile(times, 50)) * 1e3, 2) for name, times in latencies.items()},
        p99_ms={name: round(float(np.percentile(times, 99)) * 1e3, 2) for name, times in latencies.items()},
        cpu_ms_an_image={name: round(float(np.median(times)) / len(files) * 1e3, 2) for name, times in cpu.items()},
        load_average=os.getloadavg()[0],
        rows_and_executions=(rows, executions),
    )
    report.save()


def _files(folder: Path | None, count: int) -> list[bytes]:
    if folder is None:
        return [encode(sample_image(seed, 300, 400), ".jpg") for seed in range(count)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    return [path.read_bytes() for path in paths]


def _predict_all(classifier: Classifier, files: Sequence[bytes]) -> None:
    for first in range(0, len(files), 8):
        classifier.predict([decode_image(data) for data in files[first : first + 8]])


def _cpu_seconds(server: int) -> float:
    """Add up the CPU time of a server and of its Python backend's processes, which are its children."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            if server in (int(path.parent.name), int(fields[1])):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ask_all(address: str, model: str, files: Sequence[bytes], clients: int) -> list[float]:
    """Send every file once, from several clients; return each answer's seconds."""
    waiting, taken = iter(files), threading.Lock()
    seconds: list[float] = []

    def client() -> None:
        with TritonServer(address) as server:
            while True:
                with taken:
                    data = next(waiting, None)
                if data is None:
                    return
                given = {ENCODED: np.array([[data]], dtype=object)}
                started = time.perf_counter()
                server.infer(model, given, ("probabilities",))
                seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


if __name__ == "__main__":
    typer.run(main)
