"""The commands ``hybrid-train``, which trains a model from class folders, and ``hybrid-prepare``, which makes those."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from ..runtime import console
from ..runtime.errors import UsageError
from ..runtime.spec import Backbone, Cell, Interpolation, Merge, ResizePolicy, SequenceOrder
from .backbone_list import DEVICES, show_backbones
from .class_folders import WrittenFolders
from .cut_regions import prepare_regions
from .data import scan_for
from .data_report import show_report
from .flags import devices_of, listed_recurrent, settings_of
from .handwritten_digits import prepare_digits, prepare_mnist
from .run_folder import RunFolder
from .tensorflow_import import import_tensorflow
from .tiny_imagenet import prepare_tiny_imagenet
from .training_settings import ClassWeights, Monitor, Optimizer


def _option(panel: str, help_text: str, *names: str, **options: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **options)


_model = partial(_option, "Model (default: the preset's)")
_phase1 = partial(_option, "Phase 1 (default: the preset's)")
_phase2 = partial(_option, "Phase 2 (default: the preset's)")
_run = partial(_option, "Run")
_list = partial(_option, "List")


def train(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="train/CLASS/* and val/CLASS/*, or CLASS/*; not needed with --resume"),
    ] = None,
    val: Annotated[
        Path | None, typer.Option(metavar="DIR", help="what to validate on, apart from DATA: class folders, or a CSV")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="a table of the images in DATA and their classes: file,label")
    ] = None,
    preset_name: Annotated[
        Literal["xception-lstm", "digits"], typer.Option("--preset", help="the reference hybrid, or the small one")
    ] = "xception-lstm",
    branches: Annotated[Literal["hybrid", "cnn", "rnn"], typer.Option(help="both branches, or one alone")] = "hybrid",
    backbone: Annotated[
        Backbone | None, _model("the CNN, with its own scaling and image size; --list shows them", metavar="NAME")
    ] = None,
    cell: Annotated[Cell | None, _model("the recurrent layers; bilstm reads the sequence both ways")] = None,
    merge: Annotated[Merge | None, _model("how the branches meet")] = None,
    sequence: Annotated[
        SequenceOrder | None, _model("a step is some rows of the image, or a patch of a grid of n x n")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="the CNN's: imagenet, none, or a file (.keras of hybrid-train, .h5 of Keras); "
            "default: imagenet, or none for digits"
        ),
    ] = None,
    image_size: Annotated[int | None, _model("width and height in pixels")] = None,
    timesteps: Annotated[
        int | None, _model("steps of the sequence; must divide image size squared; n x n for patches")
    ] = None,
    rnn_units: Annotated[int | None, _model("units of each recurrent layer")] = None,
    rnn_layers: Annotated[int | None, _model("number of recurrent layers")] = None,
    rnn_batch_norm: Annotated[
        bool | None, _model("BatchNormalization behind the recurrent layers", "--rnn-batch-norm/--no-rnn-batch-norm")
    ] = None,
    resize: Annotated[ResizePolicy | None, _model("how a frame becomes a square")] = None,
    interpolation: Annotated[Interpolation | None, _model("how a frame is resized")] = None,
    phase1_epochs: Annotated[int | None, _phase1("epochs; 0 leaves the phase out")] = None,
    phase1_steps: Annotated[int | None, _phase1("batches an epoch; 0: one pass")] = None,
    phase1_batch: Annotated[int | None, _phase1("images a batch")] = None,
    phase1_optimizer: Annotated[Optimizer | None, _phase1("optimizer")] = None,
    phase1_lr: Annotated[float | None, _phase1("learning rate")] = None,
    phase1_monitor: Annotated[Monitor | None, _phase1("number that chooses the best epoch")] = None,
    phase1_freeze: Annotated[
        bool | None,
        _phase1("freeze the CNN (default: only when it has pretrained weights)", "--phase1-freeze/--no-phase1-freeze"),
    ] = None,
    phase2_epochs: Annotated[int | None, _phase2("epochs; 0 leaves the phase out")] = None,
    phase2_steps: Annotated[int | None, _phase2("batches an epoch; 0: one pass")] = None,
    phase2_batch: Annotated[int | None, _phase2("images a batch")] = None,
    phase2_optimizer: Annotated[Optimizer | None, _phase2("optimizer")] = None,
    phase2_lr: Annotated[float | None, _phase2("learning rate")] = None,
    phase2_monitor: Annotated[Monitor | None, _phase2("number that chooses the best epoch")] = None,
    augment: Annotated[
        bool | None,
        _run(
            "vary the training images: shift, scale, rotate; photographs are mirrored too, digits get other pens; "
            "default: digits yes, photographs no",
            "--augment/--no-augment",
        ),
    ] = None,
    class_weights: Annotated[
        ClassWeights, _run("balanced: all classes count alike in the loss, however many images they have")
    ] = "none",
    mixed_precision: Annotated[
        Literal["off", "float16", "bfloat16"], _run("compute in half precision; bfloat16 on CPUs that have it")
    ] = "off",
    val_fraction: Annotated[float, _run("share of each class for validation, where DATA has no val/")] = 0.2,
    seed: Annotated[int, _run("of the split, the weights and the order of images")] = 0,
    devices: Annotated[str | None, _run("GPUs of this machine that train: all, or how many; default: one")] = None,
    workers: Annotated[
        int | None, _run("threads that read and preprocess images; default: digits 1, photographs 2")
    ] = None,
    feature_cache: Annotated[
        bool, _run("compute a frozen CNN's features once, not each epoch", "--feature-cache/--no-feature-cache")
    ] = True,
    bn_batches: Annotated[int, _run("training batches for BatchNorm's re-estimation; 0: leave it out")] = 40,
    bn_momentum: Annotated[float, _run("momentum of BatchNorm's re-estimation")] = 0.9,
    runs: Annotated[Path, _run("folder of all runs")] = Path("runs"),
    name: Annotated[str | None, _run("name of the run (default: date, time, branches)")] = None,
    check_only: Annotated[bool, _run("only report on the data, and stop before training", "--check-only")] = False,
    resume: Annotated[bool, _run("continue the newest run, or the one named with --name", "--resume")] = False,
    list_models: Annotated[
        bool, _list("the backbones and recurrent cells, and how fast a device can be at best; train nothing", "--list")
    ] = False,
    predict_for: Annotated[
        str | None,
        _list("devices, as hybrid-bench knows them; default: " + ",".join(DEVICES), metavar="NAME,NAME,…"),
    ] = None,
) -> None:
    """Train a classifier of two branches, a CNN and a recurrent one, from images in class folders.

    Phase 1 trains behind a frozen CNN where that has pretrained weights; phase 2 trains all layers from phase 1's best.
    Everything lands in runs/NAME, and runs/latest points at it.

    Example: [bold]hybrid-train photos --weights none --image-size 71 --timesteps 71 --rnn-units 128[/bold]

    Example: [bold]hybrid-train photos --backbone mobilenet_v2 --cell gru --rnn-units 256 --sequence patches[/bold]
    """
    flags = dict(locals())
    if list_models:
        shown = ("list_models", "predict_for", "timesteps", "rnn_units", "rnn_layers")
        _refuse_beside("--list shows every backbone as Keras has it", flags, shown)
        show_backbones(listed_recurrent(flags), _names(predict_for) or DEVICES)
        return
    if predict_for is not None:
        raise UsageError("--predict-for chooses the devices of --list; give both, or leave it out")
    if resume:
        kept = ("resume", "runs", "name", "devices")
        _refuse_beside("--resume continues a run with the data and settings it began with", flags, kept)
    elif data is None:
        raise UsageError("expected DATA, a folder of class folders, or --resume; see hybrid-train --help")
    settings = None if resume else settings_of(flags)
    if settings and check_only:
        show_report(scan_for(settings), settings.class_weights, console.stdout)
        return
    import_tensorflow()
    from . import trainer  # noqa: PLC0415  # TensorFlow takes seconds; --help and wrong usage should not wait for it

    if settings is None:
        show(trainer.resume(runs / name if name else None, runs, devices_of(devices)))
    else:
        show(trainer.train(settings, runs, name))


def _refuse_beside(reason: str, flags: dict[str, Any], allowed: tuple[str, ...]) -> None:
    defaults = {key: parameter.default for key, parameter in inspect.signature(train).parameters.items()}
    changed = [key for key, value in flags.items() if value != defaults[key] and key not in allowed]
    if changed:
        names = {"data": "DATA", "preset_name": "--preset"}
        found = ", ".join(names.get(key, "--" + key.replace("_", "-")) for key in changed)
        raise UsageError(f"{reason}; leave out {found}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def show(run: RunFolder) -> None:
    """Print what a finished run measured: each class's rates, then the totals and where the files are."""
    metrics = run.read_json(run.metrics)
    table = Table(title=f"validation of {escape(run.name)}", caption=f"{metrics['validation_images']} images")
    for column in ("class", "images", "top-1", "top-5"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for rate in metrics["classes"]:
        table.add_row(escape(rate["label"]), str(rate["images"]), _percent(rate["top1"]), _percent(rate["top5"]))
    table.add_section()
    table.add_row("all", str(metrics["validation_images"]), _percent(metrics["top1"]), _percent(metrics["top5"]))
    console.stdout.print(table)
    console.stdout.print(
        f"model {run.model}\npictures curves.png, confusion.png, classes.png in {run.path}\n"
        f"trained {metrics['seconds'] / 60:.1f} min, peak memory {metrics['peak_memory_mib']:.0f} MiB\n"
        f"next: hybrid-export",
        markup=False,
        soft_wrap=True,
    )


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"


def main() -> NoReturn:
    """Run ``hybrid-train`` and leave the process with its exit code."""
    console.main(console.make_app(train))


prepare_app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True
)

Destination = Annotated[Path, typer.Argument(help="New or empty folder, or one that an earlier call began.")]


@prepare_app.callback()
def prepare() -> None:
    """Make class folders, DST/train/CLASS/* and DST/val/CLASS/*, of a public data set, or cut images into regions.

    Example: [bold]hybrid-prepare digits data/digits[/bold]
    """


@prepare_app.command("tiny-imagenet")
def tiny_imagenet(
    src: Annotated[Path, typer.Argument(help="tiny-imagenet as published: the folder, or the .tar.gz or .zip of it.")],
    dst: Destination,
    classes: Annotated[int | None, typer.Option(help="Only the first N classes of wnids.txt.", metavar="N")] = None,
    wnids: Annotated[Path | None, typer.Option(help="Only the classes in this file, one wnid a line.")] = None,
) -> None:
    """tiny-imagenet, with readable class names; images are copied byte for byte.

    Example: [bold]hybrid-prepare tiny-imagenet tiny-imagenet-200.zip data/tiny --classes 20[/bold]
    """
    _show_folders(prepare_tiny_imagenet(src, dst, classes=classes, wnids=wnids))


@prepare_app.command()
def digits(dst: Destination) -> None:
    """scikit-learn's 1,797 handwritten digits at 28 x 28, centred and scaled as MNIST's; needs no network.

    Example: [bold]hybrid-prepare digits data/digits[/bold]
    """
    _show_folders(prepare_digits(dst))


@prepare_app.command()
def mnist(dst: Destination) -> None:
    """MNIST's 70,000 handwritten digits, downloaded through Keras the first time.

    Example: [bold]hybrid-prepare mnist data/mnist[/bold]
    """
    _show_folders(prepare_mnist(dst))


@prepare_app.command("regions")
def cut_regions(
    src: Annotated[Path, typer.Argument(help="Folder of images, class folders or any other.")],
    dst: Destination,
    region: Annotated[
        list[str],
        typer.Option(metavar="NAME=X,Y,W,H", help="In pixels or per cent, as of hybrid-infer; may be repeated."),
    ],
) -> None:
    """Cut images to what hybrid-infer --region shows a model: DST/NAME/… for each region, with SRC's folders, as PNGs.

    Exit code 1: an image could not be read, or a region is not inside of it; the others are cut.

    Example: [bold]hybrid-prepare regions photos cut --region gate=10%,20%,30%,40%[/bold], then hybrid-train cut/gate
    """
    made = prepare_regions(src, dst, region)
    for name, count in made.counts.items():
        typer.echo(f"{count} images in {dst / name}")
    if made.kept:
        console.status.print(f"{made.kept} were there already, {made.written} written")
    if made.failed:
        console.say(f"{made.failed} could not be cut, named above", style="bold yellow")
        raise typer.Exit(1)


def _show_folders(made: WrittenFolders) -> None:
    splits = list(made.counts)
    table = Table("class", title=f"images in {made.dst}", title_justify="left")
    for split in splits:
        table.add_column(split, justify="right", footer=str(made.counts[split].total()))
    for label in sorted(set().union(*made.counts.values())):
        table.add_row(label, *(str(made.counts[split][label]) for split in splits))
    table.add_section()
    table.add_row("all", *(str(made.counts[split].total()) for split in splits))
    console.stdout.print(table)
    if made.kept:
        console.status.print(f"{made.kept} were there already, {made.written} written")


def prepare_main() -> NoReturn:
    """Run ``hybrid-prepare`` and leave the process with its exit code."""
    console.main(prepare_app)
