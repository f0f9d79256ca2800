import re
import subprocess
import sys

import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.roofline import BranchCost, Cost, limit_of, rates_of
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.backbone_list import cnn_cost, show_backbones
from hybrid_edge.train.backbones import BACKBONES

RECURRENT = ModelSpec(branches="rnn", image_size=224, timesteps=28, rnn_units=256, rnn_layers=1)


def rows(printed: str) -> dict[str, list[str]]:
    """The figures of each row by its name, which has spaces in the recurrent ones."""
    lines = [line.split() for line in printed.splitlines() if re.search(r"\dx\d", line)]
    return {" ".join(words[:-10]): words[-10:] for words in lines}


def test_the_command_lists_every_backbone_and_cell_within_80_columns_and_without_tensorflow() -> None:
    code = "import sys\nfrom hybrid_edge.train.command import main\nsys.modules['tensorflow'] = None\nmain()"
    arguments = [sys.executable, "-c", code, "--list", "--rnn-units", "256", "--rnn-layers", "1"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    found = rows(ended.stdout)
    assert set(found) == {*BACKBONES, "1 lstm of 256", "1 gru of 256", "1 bilstm of 256"}
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert found["xception"][:4] == ["20.9", "83", "8.36", "299x299"]


def test_a_time_is_the_roofline_of_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    show_backbones(RECURRENT, ("orin-nano", "rpi5", "agx-orin"))
    found = rows(capsys.readouterr().out)
    resnet = ModelSpec(backbone="resnet50_v2", image_size=224, timesteps=28, branches="cnn")
    nano = rates_of("orin-nano")
    fp16, int8 = (limit_of(Cost(BranchCost(), cnn=cnn_cost(resnet, kind)), nano).ms for kind in ("fp16", "int8"))
    assert found["resnet50_v2"][4:6] == [f"{fp16:.2f}", f"{int8:.2f}"]
    layers = 4 * 256 * (1792 + 256)
    assert found["1 lstm of 256"][:4] == [f"{(layers + 4 * 256) / 1e6:.1f}", "8", "0.06", "28x1792"]


def test_an_unknown_device_is_wrong_usage_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"expected one of orin-nano-4, orin-nano, .* found 'orin'"):
        show_backbones(RECURRENT, ("orin",))
