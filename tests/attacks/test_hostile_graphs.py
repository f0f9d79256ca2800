"""Graphs whose hashes are right: no engine sees them."""

from pathlib import Path

import pytest
from support.models.bundles import change_manifest, make_variant, store
from support.models.graph_bombs import bombs
from support.models.hostile_graphs import external, foreign, scans
from support.models.odd_graphs import odd_structure, odd_weights

from hybrid_edge.runtime.bundle import Bundle

from .conftest import Refused

GRAPHS = {name: data for made in (external, foreign, scans, bombs, odd_weights, odd_structure) for name, data in made()}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_no_export_wrote_reaches_no_engine(name: str, target: Path, refused: Refused) -> None:
    golden = Bundle.open(target).manifest.variants[0].golden
    (target / "artifacts" / "x.bin").write_bytes(bytes(10**5))  # what external data would be read from
    graph = store(target, "artifacts", "onnx", GRAPHS[name])
    change_manifest(target, variants=(make_variant("fp32", "cpu", graph, golden),))
    assert "expected a graph that hybrid-export wrote" in refused(target)
