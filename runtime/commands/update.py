"""The ``hybrid-update`` command brings a new bundle to this device, proves it here, and goes back where it fails."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import console
from ..trust import Trust
from .options import (
    BackendOption,
    ExpectSha256Option,
    PrecisionOption,
    RequireSignatureOption,
    ThreadsOption,
    refuse_others,
)

PROOF = "Proof"  # a panel of --help


def update(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Address or path of a bundle's tar, or a bundle's folder."),
    ] = None,
    bundle: Annotated[
        Path, typer.Option(metavar="PATH", help="The link that hybrid-infer opens; made where there is none.")
    ] = Path("bundle"),
    expect_sha256: ExpectSha256Option = None,
    require_signature: RequireSignatureOption = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Kept frames to compare old and new on; in class folders: accuracy.",
            show_default="golden examples",
            rich_help_panel=PROOF,
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Run it beside the bundle that runs.", rich_help_panel=PROOF)
    ] = True,
    max_slower: Annotated[
        float, typer.Option(min=0, help="Times the old one's time that it may take.", rich_help_panel=PROOF)
    ] = 1.5,
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, help="Points of accuracy that it may lose.", rich_help_panel=PROOF)
    ] = 1.0,
    health: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="For which live runs try it before the switch.", rich_help_panel=PROOF
        ),
    ] = 30.0,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1, help="After which it counts as hung; engines are built.", rich_help_panel=PROOF
        ),
    ] = 900.0,
    keep: Annotated[int, typer.Option(min=0, help="Old bundles that stay, to go back to.")] = 2,
    max_size: Annotated[int, typer.Option(metavar="MIB", min=1, help="That a download may have.")] = 4096,
    back: Annotated[bool, typer.Option("--back", help="Only go back to the bundle that ran before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done as one JSON object.")] = False,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Fetch or copy a bundle, prove it on this device, and switch to it; live runs take it without a pause.

    Signature and fingerprint are checked, the engine is built, the golden examples
    must give here what they gave the exporter, and the new bundle may not be slower
    or less accurate than the old one. Live runs then try it. Until all that is
    done the old one stays, whatever fails, hangs or loses its power.
    Exit code 0: done; 1: it can't be fetched, is not trusted or does not run here;
    2: wrong usage; 3: it runs, and was refused; 130: interrupted.

    Example: hybrid-update https://models.example.com/birds.tar --require-signature key.pub

    Example: hybrid-update /media/usb/birds.tar --frames kept/ --health 60

    Example: hybrid-update --back
    """
    from ..errors import UsageError  # noqa: PLC0415
    from ..update.prove import DeviceProof  # noqa: PLC0415  # OpenCV
    from ..update.update_bundle import UpdateRequest, go_back  # noqa: PLC0415
    from ..update.update_bundle import update as run  # noqa: PLC0415

    if back:
        refuse_others(context, "--back", ("--bundle", "--json"))
        done = go_back(bundle)
    elif source is None:
        raise UsageError("expected the address or path of a bundle, found none; or --back")
    else:
        options = ["--backend", backend, "--precision", precision]
        options += [] if threads is None else ["--threads", str(threads)]
        proof = DeviceProof(tuple(options), frames, max_slower, max_drop / 100, timeout)
        trust = Trust.from_flags(expect_sha256, require_signature)
        done = run(
            UpdateRequest(source, bundle, trust, proof, compares=compare, health=health, keep=keep, max_size=max_size)
        )
    if as_json:
        console.print_json(asdict(done))
    else:
        before = f", before {done.before[:16]}…" if done.before and done.switched else ""
        console.stdout.print(f"{bundle}: {done.fingerprint[:16]}…{before}", markup=False, soft_wrap=True)


app = console.make_app(update)


def main() -> NoReturn:
    """Run ``hybrid-update`` and leave the process with its exit code."""
    console.main(app)


if __name__ == "__main__":
    main()
