from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import write_clip

from hybrid_edge.runtime.frame import Pixels


@pytest.fixture(scope="session")
def frames() -> list[Pixels]:
    """20 frames that grow brighter by 10, with noise, so that most of a file is frames."""
    noises = [np.random.default_rng(number).integers(-9, 10, size=(48, 64, 3)) for number in range(20)]
    return [np.clip(10 * number + 20 + noise, 0, 255).astype(np.uint8) for number, noise in enumerate(noises)]


@pytest.fixture(scope="session")
def video(frames: list[Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("video") / "clip.avi", frames, rate=10)
