"""What the gate's tests share: the sizes of the exports, a variant judged, Keras's own labels as the truth."""

from dataclasses import replace

from hybrid_edge.export.gates.gate import run_gate
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits
from hybrid_edge.runtime.backends.base import Backend
from hybrid_edge.runtime.manifest import Parity, Precision
from hybrid_edge.train.data import LabelledImage

SIZES = ("digits", "reduced")


def labelled(reference: Reference) -> Reference:
    """Keras's own labels taken as the truth."""
    classes = reference.spec.class_labels
    truth = [
        LabelledImage(i.path, classes[row])
        for i, row in zip(reference.images, reference.logits.argmax(axis=1), strict=True)
    ]
    return replace(reference, images=tuple(truth))


def judged(reference: Reference, backend: Backend, precision: Precision = "fp32") -> Parity:
    """What the gate of this precision measures, with the limits that are its own."""
    limits = GateLimits.for_precision(precision, reference.spec)
    return run_gate(reference, backend, precision=precision, simulated=False, limits=limits).parity
