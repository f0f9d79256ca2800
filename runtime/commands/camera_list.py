"""Prints the cameras of this machine, for ``hybrid-infer --list-cameras``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from .. import console
from ..console import say
from ..foreign_text import printable

if TYPE_CHECKING:
    from ..sources.camera import Camera, CameraFormat

MOST_SIZES = 8  # sizes of one camera format that the list for people shows


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
