from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import write_clip


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames that grow brighter by 10, at 10 a second."""
    noises = [
        np.random.default_rng(number).integers(-9, 10, size=(48, 64, 3)) for number in range(20)
    ]  # frames of size
    frames = [np.clip(10 * number + 20 + noise, 0, 255).astype(np.uint8) for number, noise in enumerate(noises)]
    return write_clip(tmp_path_factory.mktemp("video") / "clip.avi", frames, rate=10)
