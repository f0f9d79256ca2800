"""Which tests one of several pytest workers runs, and in what order: those that share dear fixtures stay together.

pytest-xdist's own groups (``--dist loadgroup``) are silently ignored from pytest 9.2 on (pytest-xdist#1386): then each
worker makes the full-size model, exports it and everything else for itself, which doubles what the tests cost. So the
groups are made from the tests' paths, by a scheduler of our own and the hook that is there for it.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# beginnings of paths below tests/; the longest running first, so that no worker ends minutes before the other
GROUPS = (
    "export/test_fullsize",
    "runtime/commands",
    "export",
    "train/test_trainer.py",
    "runtime",
    "export/adopt",
    "runtime/sources",
    "train",
    "runtime/service",
    "runtime/pipeline",
    "runtime/outputs",
)


def group_of(nodeid: str) -> str:
    """The longest of the groups that a test's path begins with; else its folder."""
    path = nodeid.split("::", maxsplit=1)[0].removeprefix("tests/")
    return max((group for group in GROUPS if path.startswith(group)), key=len, default=path.split("/", maxsplit=1)[0])


def place_of(nodeid: str) -> int:
    group = group_of(nodeid)
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


class GroupScheduling(LoadScopeScheduling):
    """One worker for a group, the groups in the order of the collected tests."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # it would begin with the groups of the most tests, not of the longest
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
