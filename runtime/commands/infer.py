"""The ``hybrid-infer`` command classifies cameras, streams and files, into a window, rows, JSON lines or a video."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from .. import console
from ..console import printable, say
from ..infer_request import HANG_TIMEOUT, InferRequest
from .options import (
    BackendOption,
    BuildOption,
    BundleOption,
    CheckOption,
    PrecisionOption,
    ProfileOption,
    ThreadsOption,
    WorkspaceOption,
)

if TYPE_CHECKING:
    from ..sources.camera import Camera, CameraFormat

# panels of --help
FRAMES, OUTPUTS, RUNNING = "Frames", "Outputs", "Running"
MOST_SIZES = 8  # sizes of one camera format that the list for people shows
MOST_FRAMES = 4096  # frames that a batch may have
HOUR = 3600.0  # seconds


def infer(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders, globs, videos, /dev/video0, csi://0, rtsp://…, http://… (MJPEG); any, mixed.",
            show_default=False,
        ),
    ] = None,
    camera: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=0, help="The camera /dev/videoN; may be repeated.", rich_help_panel=FRAMES),
    ] = None,
    list_cameras: Annotated[
        bool, typer.Option("--list-cameras", help="Say which cameras there are, and end.", rich_help_panel=FRAMES)
    ] = False,
    width: Annotated[
        int | None, typer.Option(min=1, help="Of a live source, pixels.", show_default=False, rich_help_panel=FRAMES)
    ] = None,
    height: Annotated[
        int | None, typer.Option(min=1, help="Of a live source, pixels.", show_default=False, rich_help_panel=FRAMES)
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1000, help="Of a live source, frames a second.", show_default=False, rich_help_panel=FRAMES
        ),
    ] = None,
    every_frame: Annotated[
        bool | None,
        typer.Option(
            "--every-frame/--latest",
            help="Classify every frame, or the newest and drop those before it.",
            show_default="every frame of files, the latest of live sources",
            rich_help_panel=FRAMES,
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X,Y,W,H",
            help="Classify a part of each picture: pixels, or 10%,20%,30%,40%; NAME@SOURCE=… of one source; "
            "may be repeated.",
            show_default="the whole picture",
            rich_help_panel=FRAMES,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_FRAMES,
            help="Frames that go through the model at once, from all sources.",
            show_default="8 for files, 1 for live sources; a picture's regions together",
            rich_help_panel=FRAMES,
        ),
    ] = None,
    max_wait: Annotated[
        float,
        typer.Option(
            metavar="MS",
            min=0,
            max=HOUR * 1000,
            help="How long a frame waits for others to fill its batch.",
            rich_help_panel=FRAMES,
        ),
    ] = 0.0,
    digit: Annotated[
        bool,
        typer.Option(
            "--digit",
            help="Show a digits model the digit that is found on a photographed page.",
            rich_help_panel=FRAMES,
        ),
    ] = False,
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.", rich_help_panel=OUTPUTS)] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on stdout in place of rows.", rich_help_panel=OUTPUTS)
    ] = False,
    window: Annotated[
        bool | None,
        typer.Option(
            "--window/--headless",
            help="A window with picture, bars, fps and latency, or none.",
            show_default="a window for live sources where there is a display",
            rich_help_panel=OUTPUTS,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE.mp4", help="Write classified frames to a video.", rich_help_panel=OUTPUTS),
    ] = None,
    snapshots: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write single frames, those that --when names.", rich_help_panel=OUTPUTS),
    ] = None,
    when: Annotated[
        str | None, typer.Option(metavar="LABEL>0.8", help="Which frames --snapshots writes.", rich_help_panel=OUTPUTS)
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=HOUR,
            help="Average probabilities over time.",
            show_default="off",
            rich_help_panel=OUTPUTS,
        ),
    ] = None,
    min_probability: Annotated[
        float,
        typer.Option(metavar="0.6", min=0, max=1, help='Below it the answer is "unknown".', rich_help_panel=OUTPUTS),
    ] = 0.0,
    stable: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=HOUR,
            help="Change the answer when another label has lasted so long.",
            rich_help_panel=OUTPUTS,
        ),
    ] = 0.0,
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    check: CheckOption = True,
    build: BuildOption = True,
    profile: ProfileOption = None,
    workspace: WorkspaceOption = None,
    supervise: Annotated[
        bool | None,
        typer.Option(
            "--supervise/--no-supervise",
            help="Watch and replace the process that classifies.",
            show_default="for live sources",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    hang_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=HOUR,
            help="How long the engine may take for a batch before it counts as hung.",
            rich_help_panel=RUNNING,
        ),
    ] = HANG_TIMEOUT,
) -> None:
    """Classify cameras, streams, images and videos with a bundle.

    Results go to stdout, everything else to stderr. Cameras and streams run until
    Ctrl-C, SIGTERM, or Q in the window, and recover by themselves.
    Exit code 0: done, stopped by the window or (live) by SIGTERM;
    1: something failed, or a file could not be read; 2: wrong usage;
    3: this device computes something else than the exporter did,
    or TensorRT does not build the INT8 graph here; 130: interrupted.

    A TensorRT engine is built on the first run on a machine: minutes.

    Example: hybrid-infer --camera 0

    Example: hybrid-infer photos/ clip.mp4 --top-k 3

    Example: hybrid-infer rtsp://camera/stream --json > predictions.jsonl
    """
    if list_cameras:
        print_cameras(as_json=as_json)
        return
    named = (*(sources or ()), *(f"/dev/video{number}" for number in camera or ()))
    request = InferRequest(
        named,
        bundle=bundle,
        top_k=top_k,
        as_json=as_json,
        batch=batch,
        max_wait=max_wait,
        backend=backend,
        precision=precision,
        threads=threads,
        check=check,
        profile=profile,
        workspace=workspace,
        build=build,
        width=width,
        height=height,
        fps=fps,
        every_frame=every_frame,
        regions=tuple(region or ()),
        window=window,
        save=save,
        snapshots=snapshots,
        when=when,
        smooth=smooth,
        min_probability=min_probability,
        stable=stable,
        digit=digit,
        hang_timeout=hang_timeout,
        supervise=supervise,
    )
    from ..pipeline.launch import run  # noqa: PLC0415  # --help should not wait for it

    if code := run(request):
        raise typer.Exit(code)


def print_cameras(*, as_json: bool) -> None:
    """Print on stdout one line for each camera of this machine with its formats below, or one JSON object for each.

    An object has ``source`` (what to give as a source), ``node``, ``name``, ``driver`` and ``formats``.
    """
    from ..sources.camera import list_cameras, sensor_number  # noqa: PLC0415  # --help should not wait for OpenCV

    found = list_cameras()
    for camera in found:
        source = f"csi://{sensor_number(camera.node, found)}" if camera.bare_sensor else camera.node
        if as_json:
            console.print_json({"source": source, **asdict(camera)})
            continue
        typer.echo(f"{source}  {printable(camera.name)} ({printable(camera.driver)}){_remark(camera)}")
        for item in camera.formats:
            typer.echo(f"    {printable(item.fourcc)}  {printable(item.description)}: {_sizes(item)}")
    if not found:
        say("no camera found: there is no /dev/videoN that captures video and that you may open (group video)")


def _remark(camera: Camera) -> str:
    if not camera.bare_sensor:
        return ""
    return f", {camera.node}: a CSI sensor with Bayer formats only, read through nvarguscamerasrc"


def _sizes(item: CameraFormat) -> str:
    shown = " ".join(f"{width}x{height}" for width, height in item.sizes[:MOST_SIZES])
    more = len(item.sizes) - MOST_SIZES
    return f"{shown or 'any size'}{f' and {more} more' if more > 0 else ''}"


app = console.make_app(infer)


def main() -> NoReturn:
    """Run ``hybrid-infer`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
