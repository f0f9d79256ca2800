from collections.abc import Callable
from pathlib import Path

import pytest
from support.machines.commands import Ended
from support.models.bundles import make_bundle

from hybrid_edge.runtime.commands import score

Score = Callable[..., Ended]


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("scoring") / "bundle")


@pytest.fixture
def run_score(small_bundle: Path, call: Callable[..., Ended]) -> Score:
    """Runs hybrid-score in this process, on JSON lines in parts of 10 unless another size or format is named."""

    def run(*arguments: object) -> Ended:
        given = [str(argument) for argument in arguments]
        defaults = {"--format": "jsonl", "--part-size": "10", "--bundle": str(small_bundle)}
        added = [word for name, value in defaults.items() if name not in given for word in (name, value)]
        return call("hybrid-score", score.main, *given, *added)

    return run
