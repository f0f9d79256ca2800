"""Cost an image from batch 1 to 32, of the whole graph and of each branch alone, and why it stops falling.

    python benchmarks/batch_curve.py BUNDLE

The branches are cut out of the variant's own graph and run by themselves, in turn with the whole. Of each, the time of
a batch is fitted by ``per batch + N x per image``: what is paid once for all images of a batch, above all the reading
of the recurrent weights at each timestep after the first, is spread by batching; the arithmetic of each image is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import typer
from interleave import RESULTS, Report, Timings, interleave

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.spec import ModelSpec

BATCHES = (1, 2, 4, 8, 16, 32)
PRODUCT = "product"  # the node where both branches meet
BYTES = {"fp32": 4, "int8": 1}
GATES = 4

Tensors = Mapping[str, npt.NDArray[np.float32]]


def main(
    bundle: Path,
    precision: Annotated[list[str] | None, typer.Option(help="of fp32, int8; default: both")] = None,
    rounds: int = 5,
    threads: int = 2,
    largest: int = BATCHES[-1],
    out: Path = RESULTS,
) -> None:
    """Measure the bundle's variants for the CPU."""
    opened = Bundle.open(bundle)
    report = Report("batch_curve", ("onnxruntime", "numpy"))
    for name in precision or BYTES:
        measure(report, opened, name, tuple(size for size in BATCHES if size <= largest), rounds, threads)
    report.save(out)


def measure(
    report: Report, bundle: Bundle, precision: str, batches: tuple[int, ...], rounds: int, threads: int
) -> None:
    """Time one precision: whole, CNN branch and recurrent branch, at every batch size in every round."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = _sessions(_graph(bundle, precision), Path(folder), threads)
    examples = bundle.golden_tensors()
    cases: dict[str, Callable[[], None]] = {}
    for batch in batches:
        tensors = {name: np.resize(tensor, (batch, *tensor.shape[1:])) for name, tensor in examples.items()}
        cases |= {f"{part}, batch {batch}": _case(session, tensors) for part, session in sessions.items()}
    timings = interleave(cases, rounds=rounds)
    baseline = f"whole, batch {batches[0]}"
    report.add(f"{precision}: a batch", timings, baseline, **_facts(timings, sessions, batches, precision, bundle.spec))


def _facts(
    timings: Timings, parts: Mapping[str, Any], batches: tuple[int, ...], precision: str, spec: ModelSpec
) -> dict[str, Any]:
    """Milliseconds an image, and the fit, of every part."""
    medians = {part: [float(np.median(timings[f"{part}, batch {batch}"])) for batch in batches] for part in parts}
    facts: dict[str, Any] = {}
    for part, times in medians.items():
        each = {batch: round(time / batch * 1e3, 2) for batch, time in zip(batches, times, strict=True)}
        per_batch, per_image = _fit(batches, times)
        facts[f"{part}_ms_an_image_by_batch"] = each
        facts[f"{part}_ms_per_batch_and_per_image"] = [round(per_batch * 1e3, 2), round(per_image * 1e3, 2)]
    if "recurrent" in medians:
        moved = recurrent_bytes(spec, BYTES[precision]) / 1e9
        paid = _fit(batches, medians["recurrent"])[0]
        facts["recurrent_weights_gb_read_for_a_batch"] = round(moved, 3)
        facts["gb_a_second_that_the_recurrent_ms_per_batch_would_be"] = round(moved / paid, 1) if paid > 0 else "–"
    return facts


def recurrent_bytes(spec: ModelSpec, width: int) -> int:
    """Bytes of recurrent weights that a batch reads: every LSTM's, at each timestep after the first, of zeros."""
    return spec.rnn_layers * GATES * spec.rnn_units**2 * width * (spec.timesteps - 1)


def _fit(batches: tuple[int, ...], times: list[float]) -> tuple[float, float]:
    """Seconds per batch and per image, by least squares of the relative error: small batches count as much."""
    sizes, seconds = np.array(batches, float), np.array(times)
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (per_batch, per_image), *_ = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)
    return float(per_batch), float(per_image)


def _graph(bundle: Bundle, precision: str) -> onnx.ModelProto:
    for variant in bundle.manifest.variants:
        if (variant.target, variant.precision) == ("cpu", precision):
            return onnx.load(bundle.verified(variant.file))
    names = ", ".join(item.name for item in bundle.manifest.variants)
    raise BundleError(f"{bundle.root}: expected a variant {precision} for cpu, found {names}; hybrid-export adds it")


def _sessions(model: onnx.ModelProto, folder: Path, threads: int) -> dict[str, Any]:
    """ONNX Runtime on the whole graph and, of a hybrid, on each branch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # else one session's threads, which spin for a while after its run, take the cores from the next one's
    options.add_session_config_entry("session.force_spinning_stop", "1")
    sessions = {}
    for part, graph in split(model).items():
        path = folder / f"{part}.onnx"
        onnx.save(graph, path)
        sessions[part] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sessions


def split(model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """The whole graph, and of a hybrid ``cnn`` and ``recurrent``: what is needed for each side of the product."""
    parts = {"whole": model}
    product = next((node for node in model.graph.node if node.name == PRODUCT), None)
    if product is not None:
        parts |= {part: _upstream(model, name) for part, name in zip(("cnn", "recurrent"), product.input, strict=True)}
    return parts


def _upstream(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    makers = {name: node for node in model.graph.node for name in node.output}
    needed, pending = set(), [output]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += makers[name].input if name in makers else ()
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = output
    part.graph.node.extend(node for node in model.graph.node if needed & set(node.output))
    part.graph.initializer.extend(item for item in model.graph.initializer if item.name in needed)
    part.graph.input.extend(item for item in model.graph.input if item.name in needed)
    part.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    return part


def _case(session: Any, tensors: Tensors) -> Callable[[], None]:
    fed = {item.name: tensors[item.name] for item in session.get_inputs()}

    def case() -> None:
        session.run(None, fed)

    return case


if __name__ == "__main__":
    typer.run(main)
