"""Exports of a small bundle in processes of their own, to be killed, starved or run at once; see test_bundle_writer."""

import contextlib
import json
import os
import pathlib
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [os.fspath(Path(__file__).parent), os.fspath(Path(__file__).parents[2])]

from support.models.bundles import files_of
from test_bundle_writer import check_whole, write

from hybrid_edge.export.bundle.bundle_writer import BundleWriter
from hybrid_edge.runtime.errors import BundleError

FOLDER = Path(sys.argv[2])
BUNDLE = FOLDER / "bundle"


@contextlib.contextmanager
def killing_at(moment: int) -> Iterator[None]:
    """SIGKILL this process before its n-th operation on files."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("write_bytes", "write_text", "replace", "unlink", "chmod", "rmdir"):
        setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    os.fsync = counted(os.fsync)
    yield


def killed_at(moment: int) -> bool:
    """Export version 2 over version 1 and die at the given moment; False if the export ended before it."""
    child = os.fork()
    if child == 0:
        with killing_at(moment):
            write(BUNDLE, 2)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_everywhere() -> None:
    outcomes = []
    moment = 1
    while True:
        expected = len(files_of(BUNDLE)) if write(BUNDLE, 1) and BUNDLE.exists() else 0
        if not killed_at(moment):
            break
        version = check_whole(BUNDLE)
        leftovers = len(files_of(BUNDLE)) - expected
        with BundleWriter(BUNDLE):
            pass
        assert check_whole(BUNDLE) == version
        after = len(files_of(BUNDLE)) - expected
        outcomes.append({"version": version, "leftovers": leftovers, "left_after_next_start": after})
        moment += 1
    print(json.dumps(outcomes))  # noqa: T201


def expect_refusal() -> None:
    try:
        write(BUNDLE, 2, size=2_000_000)
    except BundleError as error:
        print(f"BundleError: {error}")  # noqa: T201


def full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    expect_refusal()


def read_only() -> None:
    if os.geteuid() == 0:  # root writes anywhere
        os.setegid(65534)
        os.seteuid(65534)
    expect_refusal()


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")]()
