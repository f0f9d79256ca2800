"""The command ``hybrid-export``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..runtime import console
from ..runtime.commands.options import refuse_others
from ..runtime.engines.ahead import parse_architectures
from ..runtime.engines.engine_options import EngineOptions, parse_profile
from ..runtime.engines.progress import Reporter, show_progress
from ..runtime.manifest import MANIFEST
from ..train.tensorflow_import import import_tensorflow
from .adopt.adoption import Statement
from .artifacts import PRECISIONS
from .bundle.engine_files import build_engines
from .bundle.publish import Published, publish
from .bundle.report import show_report
from .export_request import ExportRequest, ExportSettings, choose_precisions, make_request
from .step_log import StepLog

if TYPE_CHECKING:
    from ..calib import Method
    from ..runtime.manifest import Variant
    from .artifacts import Recurrent
    from .exporter import ExportResult

MB = 1e6
MIB = 2**20
BESIDE_TRITON = ("MODEL", "--fp32", "--fp16", "--int8", "--profile", "--triton-python")


def _triton(text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel="Triton Inference Server", show_default=False)


def _adopted(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="A model that somebody else trained", show_default=False)


def export(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL",
            help="a run folder or .keras file of hybrid-train, or anybody's .keras, .h5 or SavedModel of one image and "
            "its class scores; default: the newest run",
        ),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="full precision; what is exported without a choice")] = False,
    w8: Annotated[
        bool, typer.Option("--w8", help="full precision but for recurrent weights, of 8 bits: for the CPU")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="half precision, for TensorRT and CUDA")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8 bits, for TensorRT and for the CPU; calibrated")] = False,
    pack: Annotated[bool, typer.Option("--pack", help="also write the bundle as one tar, for copying")] = False,
    sign: Annotated[
        str | None,
        typer.Option(
            metavar="KEY.pem", help="also sign the bundle, or MODEL where that is one; keyless: by your identity"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="images to check on: class folders, or images as they lie (default: the run's validation)"),
    ] = None,
    gate_images: Annotated[
        int | None, typer.Option(help="how many of them every variant is run on", show_default="all")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(help="images to calibrate on (default: the run's stratified sample of its training images)"),
    ] = None,
    labels: Annotated[Path | None, _adopted("its labels, one a line in the order of its scores (or .json)")] = None,
    scaling: Annotated[
        str | None,
        _adopted("how its pixels were scaled: xception, unit, torch, caffe, raw, or auto: tried on --images"),
    ] = None,
    channels: Annotated[str | None, _adopted("the order of its channels: rgb, bgr or gray")] = None,
    resize: Annotated[str | None, _adopted("stretch, center-crop or letterbox")] = None,
    interpolation: Annotated[str | None, _adopted("linear-exact or nearest-exact")] = None,
    image_size: Annotated[int | None, _adopted("pixels, for a model that takes images of any size")] = None,
    method: Annotated[str, typer.Option(help="ranges of INT8: minmax, entropy or percentile")] = "percentile",
    recurrent: Annotated[
        str, typer.Option(help="recurrent branch: lstm, unrolled, or auto: for TensorRT both, and the device chooses")
    ] = "auto",
    max_drop: Annotated[float, typer.Option(help="accuracy that INT8 may lose, in points")] = 0.5,
    auto: Annotated[
        bool, typer.Option("--auto", help="INT8 that fails gives its most sensitive layers back, until it passes")
    ] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="only measure how sensitive each layer is to INT8: table and plot")
    ] = False,
    engine_only: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="only build this bundle's TensorRT engines, for this machine"),
    ] = None,
    rtx_arch: Annotated[
        str,
        typer.Option(help="also build TensorRT-RTX engines for desktop GPUs: sm86,sm89", show_default=False),
    ] = "",
    profile: Annotated[str, typer.Option(help="batch profile of engines: MIN,OPT,MAX")] = "1,1,8",
    workspace: Annotated[
        int | None, typer.Option(help="scratch memory of engines, MiB", show_default="fits the device")
    ] = None,
    picture: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="IMAGE OUT.png",
            help="only draw what each branch sees in an image, and how both decide",
            show_default=False,
        ),
    ] = None,
    triton: Annotated[
        Path | None, _triton("only write MODEL, a bundle, as a model repository into this new folder", "DIR")
    ] = None,
    triton_python: Annotated[
        bool, _triton("with hybrid-edge's engines in Triton's Python backend, in place of Triton's own backends")
    ] = False,
    check_triton: Annotated[
        str | None,
        _triton("only send the golden examples of MODEL, a bundle, to this server (or grpc://…)", "http://HOST:8000"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the bundle's folder (default: bundle/ in the run, or beside the .keras file)")
    ] = None,
    runs: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
) -> None:
    """Turn a trained model into a bundle: ONNX variants for each target, proven against the Keras model on real images.

    Exit code 3: a variant was refused; those that passed are in the bundle.

    Example: [bold]hybrid-export --fp16 --int8[/bold]

    Example: [bold]hybrid-export model.h5 --labels labels.txt --images photos --int8[/bold]

    Example: [bold]hybrid-export --engine-only runs/latest/bundle --rtx-arch sm89[/bold]

    Example: [bold]hybrid-export runs/latest/bundle --sign key.pem --pack[/bold]

    Example: [bold]hybrid-export --picture photo.jpg inside.png[/bold]

    Example: [bold]hybrid-export runs/latest/bundle --triton models[/bold]
    """
    if picture is not None:
        refuse_others(context, "--picture", ("MODEL", "--runs"))
        draw(*picture, model, runs)
        return
    if check_triton is not None:
        refuse_others(context, "--check-triton", ("MODEL",))
        prove_server(check_triton, model)
        return
    if model is not None and (model / MANIFEST).is_file() and (sign is not None or pack):
        refuse_others(context, "--sign" if sign else "--pack", ("MODEL", "--sign", "--pack"))
        show_published(publish(model, key=sign, tar=pack))
        return
    chosen = [name for name, wanted in zip(PRECISIONS, (fp32, w8, fp16, int8), strict=True) if wanted]
    options = EngineOptions(parse_profile(profile), None if workspace is None else workspace * MIB)
    if triton is not None:
        refuse_others(context, "--triton", BESIDE_TRITON)
        write_for_triton(model, triton, chosen, options, python=triton_python)
        return
    architectures = parse_architectures(rtx_arch) if rtx_arch else ()
    if engine_only is not None:
        build(engine_only, architectures, options)
        return
    settings = ExportSettings(
        precisions=("int8",) if sensitivity else choose_precisions(chosen),
        recurrent=cast("Recurrent", recurrent),
        method=cast("Method", method),
        max_drop=max_drop / 100,
        give_back=auto,
        engine=options,
    )
    request = make_request(
        model,
        images=images,
        out=out,
        runs=runs,
        gate_images=gate_images,
        calib=calib,
        settings=settings,
        stated=Statement(labels, scaling, channels, resize, interpolation, image_size),
    )
    log = StepLog()
    for reason in request.images.skipped:
        log.say(f"passed over {reason}", style="yellow")
    start_tensorflow(log)
    from . import exporter  # noqa: PLC0415  # needs Keras

    if sensitivity:
        rank(request, log)
        return
    result = exporter.export(request, tar=pack, key=sign, log=log)
    show(request, result)
    result.require_passed()
    if architectures or any(item.target == "tensorrt" for item in written(result)):
        build(result.bundle, architectures, options)


def start_tensorflow(log: StepLog) -> None:
    """Import TensorFlow and let it see the CPU alone."""
    with log.step("start TensorFlow"):
        import_tensorflow()
        import tensorflow as tf  # noqa: PLC0415  # seconds: --help and wrong usage should not wait for it

        tf.config.set_visible_devices([], "GPU")  # the reference is the CPU's; the GPU's memory is left to engines


def draw(image: Path, out: Path, model: Path | None, runs: Path) -> None:
    """Draw what is inside a model while it classifies an image, and print its answer and where the picture is."""
    from .explain.picture import draw_picture, make_picture_request  # noqa: PLC0415  # OpenCV

    request = make_picture_request(image, out, model, runs)
    log = StepLog()
    start_tensorflow(log)
    console.stdout.print(draw_picture(request, log), soft_wrap=True, markup=False)


def rank(request: ExportRequest, log: StepLog) -> None:
    """Measure the sensitivity of the layers, and print the table and where the plot is."""
    from .explain.sensitivity import rank_layers, sensitivity_table  # noqa: PLC0415  # needs Keras

    report = rank_layers(request, log)
    console.stdout.print(sensitivity_table(report))
    console.stdout.print(f"plot {report.plot}\ntable {report.table}", soft_wrap=True, markup=False)
    if report.stale:
        console.say(f"warning: {report.stale}", style="yellow")


def written(result: ExportResult) -> list[Variant]:
    """Return the variants of the bundle that this export wrote."""
    variants = result.manifest.variants if result.manifest else ()
    return [item for item in variants if item.name in result.written]


def show(request: ExportRequest, result: ExportResult) -> None:
    """Print the gates' figures against their limits, what was written, and the next command."""
    packed = result.published.tar if result.published else None
    console.stdout.print(f"bundle {packed or result.bundle}\n", soft_wrap=True, markup=False)
    show_report(result.entries)
    console.stdout.print(
        f"report {result.report}\ntook {sum(result.seconds.values()):.0f} s, peak memory {result.peak_memory:.0f} MiB",
        soft_wrap=True,
        markup=False,
    )
    if result.published is not None:
        show_published(result.published)
    if result.written:
        words = ["hybrid-infer", "--bundle", str(packed or result.bundle), str(request.images.images[0].path)]
        console.stdout.print(f"next: {shlex.join(words)}", soft_wrap=True, markup=False)


def show_published(published: Published) -> None:
    """Print a bundle's fingerprint, where it is written, whether the bundle is signed, and where its tar is."""
    signed = "signed" if published.signed else "not signed"
    text = f"fingerprint sha256:{published.fingerprint} ({signed}; {published.checksum})"
    console.stdout.print(text, soft_wrap=True, markup=False)
    if published.tar is not None:
        console.stdout.print(f"tar {published.tar}", soft_wrap=True, markup=False)


def build(bundle: Path, architectures: tuple[str, ...], options: EngineOptions) -> None:
    """Build a bundle's TensorRT engines and print where they are, or what to run on the device."""
    engines = build_engines(bundle, architectures, options, Reporter(say=console.say, show=show_progress))
    for local in engines.local:
        text = f"engine {local.path} ({local.variant}, {local.size / MB:.1f} MB, {local.seconds:.0f} s)"
        console.stdout.print(text, soft_wrap=True, markup=False)
    for ahead in engines.ahead:
        text = f"engine {ahead.path} ({ahead.variant}, TensorRT-RTX for {ahead.architecture}, not for Jetson, "
        text += f"{ahead.size / MB:.1f} MB, {ahead.seconds:.0f} s)"
        console.stdout.print(text, soft_wrap=True, markup=False)
    if engines.advice:
        console.stdout.print(engines.advice, soft_wrap=True, markup=False)


def write_for_triton(
    path: Path | None, folder: Path, precisions: Sequence[str], options: EngineOptions, *, python: bool
) -> None:
    """Write a bundle as a model repository of Triton, and print what a server loads of it."""
    from ..runtime.bundle import Bundle  # noqa: PLC0415  # OpenCV
    from .triton.repository import write_repository  # noqa: PLC0415

    bundle = Bundle.open(path)
    with console.waiting("writing the repository"):
        names = write_repository(bundle, folder, precisions=precisions, profile=options.profile, python=python)
    text = (
        f"repository {folder}\nmodels {', '.join(names)}\nnext: {folder / 'README.md'} says how a server starts on it"
    )
    console.stdout.print(text, soft_wrap=True, markup=False)


def prove_server(address: str, path: Path | None) -> None:
    """Send a bundle's golden examples to a Triton server and print how near its answers are to the exporter's."""
    from ..runtime.bundle import Bundle  # noqa: PLC0415  # OpenCV
    from .triton.check_server import check_server, check_table  # noqa: PLC0415

    bundle = Bundle.open(path)
    with console.waiting("sending golden examples"):
        check = check_server(address, bundle)
    console.show_table(check_table(check))
    if check.missing:
        console.say(f"not loaded there, and not checked: {', '.join(check.missing)}")
    check.require_passed()


def main() -> None:
    """Run ``hybrid-export``: the entry point of the command."""
    console.main(console.make_app(export))
