"""What one pass over the images finds for INT8 says what another would have found for FP16."""

from pathlib import Path

import pytest
from support.models.lowered import Source
from support.models.standin import write_crops

from hybrid_edge.calib import Peaks, measure_channels, measure_peaks
from hybrid_edge.export.quantize.calibration_graph import measured_parts
from hybrid_edge.export.quantize.equalize import PixelGrid, channel_tensors, even_channels
from hybrid_edge.export.quantize.gpu_graph import ActivationPeaks
from hybrid_edge.export.quantize.prepared_model import peaks_before


def test_fp16s_largest_activations_follow_from_those_of_evened_channels(reduced_source: Source, tmp_path: Path) -> None:
    source, spec = reduced_source.forms["unrolled"], reduced_source.spec
    paths = sorted(write_crops(tmp_path, 6, seed=5).rglob("*.png"))
    survey = measure_channels(measured_parts(source), paths[:3], spec, channel_tensors(source))
    evened = even_channels(source, survey.peaks, survey.means, PixelGrid.of(spec))
    assert evened.factors
    peaks = measure_peaks(measured_parts(evened.graph), paths, spec, channels=evened.factors)
    found = peaks_before(source, evened, peaks)
    expected = ActivationPeaks.of((measure_peaks(measured_parts(source), paths, spec).largest,))
    assert found is not None
    assert found.largest == pytest.approx(expected.largest, rel=1e-5)
    own = ActivationPeaks.of((peaks.largest,)).largest
    assert any(own[name] != pytest.approx(peak, rel=0.01) for name, peak in found.largest.items())
    assert peaks_before(source, evened, Peaks(peaks.largest, {})) is None, "without the channels it can't be told"
    clipped = evened._replace(factors=None)
    assert peaks_before(source, clipped, peaks) is None, "beyond a Clip that was moved the graphs are not alike"
