from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from batch_curve import recurrent_bytes
from training_loop import SIZES, _phase, title

from hybrid_edge.runtime.spec import preset
from hybrid_edge.train.training_settings import PHASES


def test_the_recurrent_weights_are_read_at_each_timestep_but_the_first() -> None:
    spec = preset("xception-lstm")
    assert recurrent_bytes(spec, 1) == 2 * 4 * 2048 * 2048 * 22


def test_each_case_trains_as_its_presets_second_phase_and_says_what_is_not_as_usual() -> None:
    for name, chosen in (("reduced", "xception-lstm"), ("digits", "digits")):
        kept = {"steps", "epochs", "batch_size"}
        assert _phase(SIZES[name]).model_dump(exclude=kept) == PHASES[chosen][1].model_dump(exclude=kept)
    assert title("digits", SIZES["digits"]).startswith("digits --no-augment: a step of 64 images at 28x28")
    assert title("reduced", SIZES["reduced"]).startswith("reduced: ")
