"""The ``hybrid-infer`` command classifies cameras, streams and files, into a window, rows, JSON lines or a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..infer_request import HANG_TIMEOUT, InferRequest
from ..trust import Trust
from .camera_list import print_cameras
from .options import (
    BackendOption,
    BuildOption,
    BundleOption,
    CheckOption,
    ConfigOption,
    ExpectSha256Option,
    PrecisionOption,
    ProfileOption,
    RequireSignatureOption,
    ShowConfigOption,
    ThreadsOption,
    WorkspaceOption,
    prefer_named_sources,
)
from .publish_options import (
    OUTPUTS,
    MetricsOption,
    MqttOption,
    MqttPasswordFileOption,
    WebCertOption,
    WebCommand,
    WebKeyOption,
    WebOption,
    WebTokenOption,
)

FRAMES, RUNNING = "Frames", "Running"  # panels of --help
MOST_FRAMES = 4096  # frames that a batch may have
HOUR = 3600.0  # seconds


def infer(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            callback=prefer_named_sources,
            help="Images, folders, globs, videos, /dev/video0, csi://0, rtsp://…, http://… (MJPEG); any, mixed.",
            show_default=False,
        ),
    ] = None,
    camera: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=0,
            callback=prefer_named_sources,
            help="The camera /dev/videoN; may be repeated.",
            rich_help_panel=FRAMES,
        ),
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
    web: WebOption = None,
    web_token_file: WebTokenOption = None,
    web_cert: WebCertOption = None,
    web_key: WebKeyOption = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Probabilities as often right as they say.", rich_help_panel=OUTPUTS)
    ] = False,
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
    mqtt: MqttOption = None,
    mqtt_password_file: MqttPasswordFileOption = None,
    metrics: MetricsOption = None,
    bundle: BundleOption = None,
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    check: CheckOption = None,
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
    config: ConfigOption = None,
    show_config: ShowConfigOption = False,
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

    Example: hybrid-infer --config camera.toml
    """
    if list_cameras:
        print_cameras(as_json=as_json)
        return
    named = (*(sources or ()), *(f"/dev/video{number}" for number in camera or ()))
    request = InferRequest(
        named,
        bundle=bundle,
        trust=Trust.from_flags(expect_sha256, require_signature),
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
        web=web,
        web_token_file=web_token_file,
        web_cert=web_cert,
        web_key=web_key,
        calibrated=calibrated,
        min_probability=min_probability,
        stable=stable,
        mqtt=mqtt,
        mqtt_password_file=mqtt_password_file,
        metrics=metrics,
        digit=digit,
        hang_timeout=hang_timeout,
        supervise=supervise,
    )
    if show_config or config is not None:
        from .config_file import keep_for_workers, print_config  # noqa: PLC0415  # most runs have no file

        if show_config:
            print_config(context)
            return
        if request.supervised:
            keep_for_workers(context)
    from ..pipeline.launch import run  # noqa: PLC0415  # --help should not wait for it

    if code := run(request):
        raise typer.Exit(code)


app = console.make_app(infer, WebCommand)


def main() -> NoReturn:
    """Run ``hybrid-infer`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
