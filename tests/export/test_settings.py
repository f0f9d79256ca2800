from __future__ import annotations

from typing import Any

import pytest

from hybrid_edge.export.export_request import ExportSettings, choose_precisions
from hybrid_edge.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recurrent": "gru"}, "--recurrent: expected lstm, unrolled, auto, found 'gru'"),
        ({"method": "mse"}, "--method: expected minmax, entropy, percentile, found 'mse'"),
        ({"max_drop": -0.1}, "--max-drop: expected points of accuracy from 0 to 100, found -10"),
        ({"max_drop": 1.5}, "found 150"),
        ({"max_drop": float("nan")}, "found nan"),
    ],
)
def test_a_value_that_is_none_of_those_expected_is_wrong_usage(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportSettings(**values)


def test_the_defaults_are_the_documented_ones() -> None:
    found = ExportSettings()
    assert (found.precisions, found.recurrent, found.max_drop) == (("fp32",), "auto", 0.005)
    assert not found.give_back


def test_fp32_alone_needs_no_calibration() -> None:
    assert not ExportSettings(precisions=("fp32",)).needs_calibration
    for precisions in (("fp16",), ("int8",), ("fp32", "int8")):
        assert ExportSettings(precisions=precisions).needs_calibration


def test_precisions_come_widest_first_and_fp32_where_none_was_asked_for() -> None:
    assert choose_precisions(fp32=False, fp16=False, int8=False) == ("fp32",)
    assert choose_precisions(fp32=False, fp16=True, int8=False) == ("fp16",)
    assert choose_precisions(fp32=True, fp16=True, int8=True) == ("fp32", "fp16", "int8")
    assert choose_precisions(fp32=True, fp16=False, int8=True) == ("fp32", "int8")
