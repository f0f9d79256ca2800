"""Prints what ``--list-cameras`` asks for: the cameras that can be opened here, and by which name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer

from ..console import printable, say
from ..sources.camera import Camera, CameraFormat, list_cameras, sensor_number

__all__ = ["print_cameras"]

MOST_SIZES = 8  # sizes of one format that the list for people shows


def print_cameras(cameras: Sequence[Camera] | None = None, *, as_json: bool = False) -> None:
    """Print on stdout one line for each camera with its formats below, or one JSON object for each camera.

    Args:
        cameras: the cameras to print; None: those of this machine.
        as_json: whether to print objects of ``source`` (what to give as a source), ``node``, ``name``, ``driver`` and
            ``formats``.
    """
    found = list_cameras() if cameras is None else list(cameras)
    for camera in found:
        source = f"csi://{sensor_number(camera.node, found)}" if camera.bare_sensor else camera.node
        if as_json:
            typer.echo(json.dumps({"source": source, **asdict(camera)}))
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
