"""Coverage-guided fuzzing of all that reads foreign bytes by itself: manifest, tar, ONNX graph, multipart stream.

    PYTHONPATH=tests python tests/soak/soak_fuzz.py [--seconds 600] [--only graph] [--keep build/fuzz]

Each runs in a process of its own, two at a time, from seeds that are real files and hostile ones. It fails where bytes
end in anything else than an answer or the error that belongs to them, take 20 s, or 2 GiB. What was learnt stays in
``--keep``, the bytes of a failure as ``crash-…`` beside it. It needs atheris, which has wheels for Linux on x86-64.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

AT_ONCE = 2
PATIENCE = 60  # seconds for a process to start and to end, beside its time
SLOWEST = 20  # seconds for one input, which libFuzzer watches
MEMORY = 2048  # MiB
LONGEST = 2**16  # bytes of an input; a seed may be longer

Target = Callable[[bytes], None]


def main(
    seconds: Annotated[int, typer.Option(help="for each of the four")] = 600,
    only: Annotated[str | None, typer.Option(help="manifest, tar, graph or multipart")] = None,
    keep: Path = Path("build/fuzz"),
    inside: Annotated[bool, typer.Option("--inside", hidden=True)] = False,
) -> None:
    """Fuzz each target, and say which failed."""
    if importlib.util.find_spec("atheris") is None:
        typer.echo("not fuzzed: atheris is not installed; it has wheels for Linux on x86-64")
        return
    if inside and only:
        fuzz(only, seconds, keep)
        return
    names = [only] if only else list(TARGETS)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = list(pool.map(lambda name: apart(name, seconds, keep), names))
    failed = [name for name, code in zip(names, codes, strict=True) if code]
    typer.echo(f"over the limits: {', '.join(failed)}, see {keep}" if failed else f"{', '.join(names)}: nothing found")
    raise SystemExit(bool(failed))


def apart(name: str, seconds: int, keep: Path) -> int:
    """Fuzz one target in a process of its own, as libFuzzer ends the one that it runs in; print its last lines."""
    keep.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--inside", "--only", name, f"--seconds={seconds}", f"--keep={keep}"]
    with (keep / f"{name}.log").open("w+") as log:
        try:
            code = subprocess.run(command, stdout=log, stderr=log, check=False, timeout=seconds + PATIENCE).returncode
        except subprocess.TimeoutExpired:
            code = 1
        log.seek(0)
        lines = log.read().splitlines()
    typer.echo(f"== {name}: exit {code}\n" + "\n".join(lines[-30 if code else -3 :]))
    return code


def fuzz(name: str, seconds: int, keep: Path) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["hybrid_edge.runtime", "tarfile"], enable_loader_override=False):
        import hybrid_edge.runtime.bundle
        import hybrid_edge.runtime.sources.mjpeg  # noqa: F401

    with tempfile.TemporaryDirectory() as work:
        os.environ["HYBRID_EDGE_CACHE"] = f"{work}/cache"
        corpus = keep / name
        corpus.mkdir(parents=True, exist_ok=True)
        seeds = Path(work) / "seeds"
        seeds.mkdir()
        for number, seed in enumerate(SEEDS[name](Path(work))):
            (seeds / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST}"]
        options = [*limits, f"-artifact_prefix={keep}/{name}-", "-print_final_stats=1", "-verbosity=1"]
        atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds)], TARGETS[name](Path(work)))
        atheris.Fuzz()


def manifest_target(_: Path) -> Target:
    from hybrid_edge.runtime.errors import BundleError
    from hybrid_edge.runtime.manifest import parse_manifest

    def run(data: bytes) -> None:
        try:
            parse_manifest(data)
        except BundleError as error:
            said(error)

    return run


def tar_target(work: Path) -> Target:
    from hybrid_edge.runtime.bundle import Bundle
    from hybrid_edge.runtime.errors import BundleError

    def run(data: bytes) -> None:
        (work / "bundle.tar").write_bytes(data)
        try:
            Bundle.open(work / "bundle.tar")
        except BundleError as error:
            said(error)
        shutil.rmtree(work / "cache", ignore_errors=True)
        if found := {item.name for item in work.iterdir()} - {"bundle.tar", "seeds", "whole"}:
            raise AssertionError(f"written beside the cache: {found}")

    return run


def graph_target(_: Path) -> Target:
    from support.models.bundles import SPEC

    from hybrid_edge.runtime.guard.graph_guard import check_graph_bytes
    from hybrid_edge.runtime.guard.onnx_file import GraphFaultError

    def run(data: bytes) -> None:
        try:
            check_graph_bytes(data, SPEC)
        except GraphFaultError as error:
            said(error)

    return run


def multipart_target(_: Path) -> Target:
    from hybrid_edge.runtime.errors import SourceError
    from hybrid_edge.runtime.sources.mjpeg import JpegCutter

    def run(data: bytes) -> None:
        step = 1 + (data[0] if data else 0)  # bytes come in pieces of any size
        cutter = JpegCutter()
        for start in range(0, len(data), step):
            cutter.feed(data[start : start + step])
            try:
                while cutter.next() is not None:
                    pass
            except SourceError as error:
                said(error)
                return

    return run


def said(error: Exception) -> None:
    """An error is short enough to be shown."""
    if len(str(error)) > 2000:
        raise AssertionError(f"an error of {len(str(error))} characters")


def whole(work: Path) -> Path:
    from support.models.bundles import make_bundle

    return make_bundle(work / "whole" / "bundle")


def manifest_seeds(work: Path) -> list[bytes]:
    """A manifest with its checksum, and without, as those of older versions: changes to it get further."""
    import json

    data = (whole(work) / "manifest.json").read_bytes()
    content = {key: value for key, value in json.loads(data).items() if key != "checksum"}
    return [data, json.dumps(content).encode()]


def tar_seeds(work: Path) -> list[bytes]:
    """Tars of every form, and one of a manifest alone."""
    import tarfile

    folder, found = whole(work), []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for names in (sorted(folder.rglob("*")), [folder / "manifest.json"]):
            with tarfile.open(work / "whole" / "seed.tar", "w", format=form) as tar:
                for path in names:
                    tar.add(path, f"{'é' * 60}/{path.relative_to(folder)}", recursive=False)
            found.append((work / "whole" / "seed.tar").read_bytes())
    return found


def graph_seeds(_: Path) -> list[bytes]:
    """A whole graph, and hostile ones, which have every operator in them."""
    from support.models.graph_bombs import bombs
    from support.models.hostile_graphs import WHOLE, external, scans
    from support.models.odd_graphs import odd_weights

    hostile = [data for made in (bombs, external, scans, odd_weights) for _, data in made()]
    return [WHOLE, *(data for data in hostile if len(data) < LONGEST)]


def multipart_seeds(_: Path) -> list[bytes]:
    """A stream with lengths, one without, one of JPEGs alone, and one with a thumbnail."""
    from support.models.bundles import encode, sample_image

    picture = encode(sample_image(1), ".jpg")
    inner = b"\xff\xe1" + (len(picture) + 2).to_bytes(2, "big") + picture
    thumbnail = picture[:2] + inner + picture[2:]
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n"
    return [
        b"".join(part % (len(item), item) for item in (picture, thumbnail)),
        b"--frame\nContent-Type: image/jpeg\n\n" + picture + b"\n--frame\nContent-Type: text/plain\n\nx\n" + picture,
        picture + thumbnail,
    ]


TARGETS: dict[str, Callable[[Path], Target]] = {
    "manifest": manifest_target,
    "tar": tar_target,
    "graph": graph_target,
    "multipart": multipart_target,
}
SEEDS: dict[str, Callable[[Path], list[bytes]]] = {
    "manifest": manifest_seeds,
    "tar": tar_seeds,
    "graph": graph_seeds,
    "multipart": multipart_seeds,
}

if __name__ == "__main__":
    typer.run(main)
