"""Costs as a manifest holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hybrid_edge.runtime.roofline.cost import BranchCost, Cost, Moved
from support.models.bundles import make_bundle

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.manifest import MANIFEST, Manifest, parse_manifest

COST = Cost(
    head=BranchCost({"fp32": 40}, (Moved(100, 1),), (Moved(8, 2),)),
    recurrent=BranchCost({"int8": 300, "fp16": 20}, (Moved(1000, 22), Moved(2000, 22), Moved(50, 1)), (Moved(6, 3),)),
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Of a small bundle whose variant's cost is ``COST``."""
    folder = make_bundle(tmp_path / "bundle")
    found = Bundle.open(folder).manifest
    variants = tuple(item.model_copy(update={"cost": COST}) for item in found.variants)
    (folder / MANIFEST).write_text(found.model_copy(update={"variants": variants}).model_dump_json())
    return folder / MANIFEST


def changed(manifest: Path, **changes: Any) -> Manifest:
    """The manifest with other fields in its variant; None leaves one out."""
    content = json.loads(manifest.read_text())
    content["variants"][0] |= changes
    content["variants"][0] = {name: value for name, value in content["variants"][0].items() if value is not None}
    return parse_manifest(json.dumps(content).encode())


def test_a_manifest_gives_back_the_cost_that_it_was_given(manifest: Path) -> None:
    (variant,) = Bundle.open(manifest.parent).manifest.variants
    assert variant.cost == COST


def test_a_bundle_from_before_costs_were_recorded_still_loads(manifest: Path) -> None:
    (variant,) = changed(manifest, cost=None).variants
    assert variant.cost is None


def test_a_later_version_may_add_to_a_cost(manifest: Path) -> None:
    content = json.loads(manifest.read_text())["variants"][0]["cost"]
    content |= {"added": 1, "head": content["head"] | {"added": {}}}
    (variant,) = changed(manifest, cost=content).variants
    assert variant.cost == COST


@pytest.mark.parametrize(
    "head", [{"macs": {"fp32": -1}}, {"macs": {"fp8": 1}}, {"weights": [{"bytes": -4, "times": 1}]}]
)
def test_a_cost_that_can_not_be_is_refused_with_the_manifest(manifest: Path, head: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"cost\.head"):
        changed(manifest, cost={"head": head})


def test_what_a_batch_moves_is_its_weights_once_each_read_and_its_activations_for_each_image() -> None:
    assert COST.macs == 360
    assert COST.weight_bytes == 100 + 3050
    assert COST.bytes_moved(1) == 100 + 16 + 22 * 3000 + 50 + 18
    assert COST.bytes_moved(4) - COST.bytes_moved(1) == 3 * (16 + 18)
    assert (COST.head.weight_reads, BranchCost().weight_reads) == (1, 0)
    assert list(COST.branches) == ["recurrent", "head"]
