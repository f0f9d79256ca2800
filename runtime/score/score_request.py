"""Describes what a call of ``hybrid-score`` asks for, without OpenCV or NumPy; it travels to the nodes of a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..engines.engine_options import parse_profile
from ..errors import UsageError
from ..infer_request import FILES_BATCH
from ..trust import Trust

ResultFormat = Literal["parquet", "jsonl"]

SHARD = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class ScoreRequest:
    """This class holds what a command line asks for; each field is the option of that name, which ``--help`` explains.

    Attributes:
        inputs: folders, files, globs, tars and addresses, as they were named.
        listed: the file of ``--from-list``; ``-`` is stdin.
        out: the folder of the results.
        file_format: of the part files.
        shard: ``I/N``: this process takes chunks whose number leaves I when divided by N.
        readers: threads that read and decode ahead of the engine; None is one for each CPU, and 16 where there are
            addresses among the inputs.
        profile, workspace: a TensorRT engine's batch sizes and MiB of scratch memory, as they were given.

    Raises:
        UsageError: there is no input, or the shard is none.
    """

    inputs: tuple[str, ...]
    out: Path
    listed: str | None = None
    file_format: ResultFormat = "parquet"
    part_size: int = 1000
    shard: str = "0/1"
    readers: int | None = None
    bundle: Path | None = None
    trust: Trust = field(default_factory=Trust)
    top_k: int = 5
    min_probability: float = 0.0
    calibrated: bool = False
    batch: int | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    check: bool | None = None
    profile: str | None = None
    workspace: int | None = None
    build: bool = True

    def __post_init__(self) -> None:
        if not self.inputs and self.listed is None:
            raise UsageError("expected images, folders, tars or --from-list FILE, found none")
        if not all(name.strip() for name in self.inputs):
            raise UsageError(
                "expected the name of an input, found an empty one: is a variable of the shell not set? "
                "The current folder is named by a dot"
            )
        _ = self.turns

    @property
    def batch_size(self) -> int:
        """The most images that go through the model at once: as asked for, or a profile's largest batch, or 8."""
        if self.batch is not None:
            return self.batch
        return FILES_BATCH if self.profile is None else parse_profile(self.profile)[2]

    @property
    def turns(self) -> tuple[int, int]:
        """The shard's number, from 0, and how many shards there are."""
        found = SHARD.fullmatch(self.shard)
        number, count = (int(group) for group in found.groups()) if found else (0, 0)
        if not number < count:
            raise UsageError(f"--shard: expected I/N with I from 0 to N - 1, as in 0/8, found {self.shard}")
        return number, count
