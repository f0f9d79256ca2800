"""Find the bundles to compare, name them, check that they can be compared, and open them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ... import runtime
from ..bundle import Bundle
from ..classifier import announce
from ..console import say, waiting
from ..engines.progress import make_reporter
from ..errors import BundleError, UsageError
from ..manifest import MANIFEST
from ..pipeline.assembly import engine_options
from .request import CompareRequest

if TYPE_CHECKING:
    from ..classifier import Classifier

__all__ = ["Model", "find_bundles", "open_models"]

SHOWN = 5  # labels that only one bundle has, as many as an error lists


@dataclass(frozen=True, eq=False)
class Model:
    """This is one of the compared models: its name, the path of its bundle, and its open classifier."""

    name: str
    path: str
    classifier: Classifier

    @property
    def size(self) -> int:
        """The size of the file that the engine loads, bytes."""
        return self.classifier.selection.variant.file.size


def find_bundles(first: Path | None, others: Sequence[Path]) -> dict[str, tuple[str, Bundle]]:
    """Open the manifests of all bundles, name each, and check that they have the same class labels.

    Args:
        first: the path that ``--bundle`` names. None looks in the usual places, and with two or more others does
            without, where it finds no bundle or one of the others.
        others: the paths that ``--with`` names.

    Returns:
        By name, each bundle's path as it was given, and the bundle. The name is the run's or the tar's, with as many of
        its folders as it takes to tell the names apart.

    Raises:
        BundleError: a bundle is missing or malformed.
        UsageError: a bundle is named twice, or the class labels differ.
    """
    paths: list[Path] = []
    bundles: list[Bundle] = []
    for path in others:
        bundle = Bundle.open(path)
        if any(bundle.root == other.root for other in bundles):
            raise UsageError(f"--with {path}: expected another bundle, found one that was named before; name it once")
        paths.append(path)
        bundles.append(bundle)
    usual = _first(first, bundles)
    if usual is not None:
        paths.insert(0, first if first is not None else usual.root)
        bundles.insert(0, usual)
    names = _names(paths)
    found = {name: (str(path), bundle) for name, path, bundle in zip(names, paths, bundles, strict=True)}
    _check_labels({name: bundle.labels for name, (_, bundle) in found.items()})
    return found


@contextmanager
def open_models(request: CompareRequest) -> Iterator[list[Model]]:
    """Open every bundle on the engine that fits, one after the other, and close them when the block ends.

    Raises:
        HybridEdgeError: as ``find_bundles`` and ``Classifier.load`` raise it.
    """
    bundles = find_bundles(request.bundle, request.others)
    with ExitStack() as opened:
        models = []
        for name, (path, bundle) in bundles.items():
            say(f"{name}: {path}")
            models.append(Model(name, path, opened.enter_context(_load(request, bundle))))
            announce(models[-1].classifier)
        yield models


def _load(request: CompareRequest, bundle: Bundle) -> Classifier:
    with waiting("opening the bundle") as stop:
        return runtime.Classifier.load(
            bundle,
            backend=request.backend,
            precision=request.precision,
            batch_size=request.batch,
            threads=request.threads,
            check=request.check,
            engine=engine_options(request.profile, request.workspace, build=request.build),
            reporter=make_reporter(stop),
        )


def _first(path: Path | None, others: Sequence[Bundle]) -> Bundle | None:
    """Return the bundle that ``--bundle`` names or that is found without it; None where the others suffice."""
    try:
        bundle = Bundle.open(path)
    except BundleError as error:
        if path is None and len(others) > 1:
            say(f"only the bundles of --with: {error}")
            return None
        raise
    if all(bundle.root != other.root for other in others):
        return bundle
    if path is None and len(others) > 1:
        return None
    named = "--bundle" if path else "the bundle that is found here"
    raise UsageError(
        f"--with: expected another bundle than {named}, found the same one ({bundle.root}); name two different ones: "
        "--bundle ONE --with OTHER"
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return names of the paths, as short as tells them apart."""
    places = [_place(path).parts for path in paths]
    for depth in range(1, max(map(len, places)) + 1):
        names = ["/".join(parts[-depth:]) for parts in places]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # as for cnn.tar beside the run cnn


def _place(path: Path) -> Path:
    """Return a bundle's path without the ending that all bundles share: its run's folder, or its tar without suffix."""
    path = path.resolve()
    if path.name == MANIFEST:
        path = path.parent
    if path.suffix == ".tar":
        path = path.with_suffix("")
    return path.parent if path.name == "bundle" else path


def _check_labels(labels: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse bundles whose sets of labels differ, as answers are compared by label; their order may differ."""
    (name, ours), *others = labels.items()
    for other, theirs in others:
        if set(ours) != set(theirs):
            raise UsageError(
                f"expected bundles with the same class labels, found {len(ours)} in {name} and {len(theirs)} in "
                f"{other}{_only(name, ours, theirs)}{_only(other, theirs, ours)}; name bundles trained on the same "
                "classes with --bundle and --with"
            )


def _only(name: str, ours: Sequence[str], theirs: Sequence[str]) -> str:
    missing = [label for label in ours if label not in set(theirs)]
    more = ", …" if len(missing) > SHOWN else ""
    return f"; only in {name}: {', '.join(missing[:SHOWN])}{more}" if missing else ""
