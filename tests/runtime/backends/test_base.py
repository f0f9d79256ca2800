from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support.models.bundles import SPEC

from hybrid_edge.runtime.backends.base import Backend, Ticket
from hybrid_edge.runtime.errors import BackendError, InputError

Tensor = npt.NDArray[np.float32]


class Recorder(Backend):
    device = "recorder"  # type: ignore[assignment]

    def _load(self, *_: object) -> None:
        self.calls = ["load"]
        self.given: tuple[Tensor, Tensor] | None = None

    def _infer(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.calls.append("infer")
        self.seen = tensors
        shape = (len(tensors["image"]), SPEC.num_classes)
        return self.given or (np.zeros(shape, np.float32), np.full(shape, 0.2, np.float32))

    def _release(self) -> None:
        self.calls.append("release")


@pytest.fixture
def backend() -> Recorder:
    return Recorder(Path("model"), SPEC)


def inputs(batch: int = 2) -> dict[str, Tensor]:
    return {name: np.zeros((batch, *shape), np.float32) for name, shape in SPEC.inputs.items()}


def changed(**tensors: object) -> dict[str, Tensor]:
    return {**inputs(), **tensors}  # type: ignore[dict-item]


def test_an_engine_is_released_once_however_often_it_is_closed_and_not_asked_again(backend: Recorder) -> None:
    buffers = backend.buffers(2, 1)[0]
    backend.run(inputs())
    with pytest.raises(KeyError), backend:
        raise KeyError
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run(inputs())
    with pytest.raises(BackendError, match="was closed"):
        backend.submit(buffers, 1)
    assert backend.calls == ["load", "infer", "release"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"image": inputs()["image"]}, r"expected the inputs \['image', 'sequence'\], found \['image'\]"),
        (changed(extra=np.zeros(2, np.float32)), r"found \['extra', 'image', 'sequence'\]"),
        (changed(image=np.zeros((2, 12, 12, 3))), r"image: expected float32 .* found float64"),
        (changed(image=np.zeros((2, 12, 12, 3), np.uint8)), r"found uint8"),
        (changed(image=np.zeros((2, 3, 12, 12), np.float32)), r"shape \(N, 12, 12, 3\).* found \(2, 3, 12, 12\)"),
        (changed(sequence=np.zeros((2, 24, 6), np.float32)), r"sequence: expected shape \(N, 6, 24\)"),
        (changed(image=np.zeros((12, 12, 3), np.float32)), r"found \(12, 12, 3\)"),
        (changed(image=np.float32(1) * np.ones((), np.float32)), r"found"),
        (changed(image=[[1.0]]), r"expected a NumPy array .* found list"),
        (inputs(0), r"N >= 1, found \(0, 12, 12, 3\)"),
        (changed(image=np.zeros((3, 12, 12, 3), np.float32)), r"one batch size, found \{'image': 3, 'sequence': 2\}"),
    ],
)
def test_wrong_inputs_are_refused_before_the_engine_with_both_sides(
    backend: Recorder, tensors: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        backend.run(tensors)
    assert backend.calls == ["load"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite_are_refused_with_their_rows(backend: Recorder, value: float) -> None:
    tensors = inputs(3)
    tensors["sequence"][1, 5, 7] = value
    with pytest.raises(InputError, match=r"sequence: expected finite values, found NaN or infinity in rows \[1\] of 3"):
        backend.run(tensors)


def test_outputs_that_are_not_finite_are_refused_with_a_hint(backend: Recorder) -> None:
    logits = np.zeros((2, 5), np.float32)
    logits[1, 2] = np.inf
    backend.given = (logits, np.zeros((2, 5), np.float32))
    for run in (lambda: backend.run(inputs()), lambda: backend.submit(backend.buffers(2, 1)[0], 2)):
        with pytest.raises(BackendError, match=r"expected finite logits.*rows \[1\] of 2.*--precision fp32"):
            run()


@pytest.mark.parametrize(
    "probabilities", [np.zeros((2, 4), np.float32), np.zeros((1, 5), np.float32), np.zeros((2, 5))]
)
def test_outputs_of_another_shape_or_dtype_are_refused(backend: Recorder, probabilities: Tensor) -> None:
    backend.given = (np.zeros((2, 5), np.float32), probabilities)
    with pytest.raises(BackendError, match=r"expected probabilities of shape \(2, 5\), float32, found"):
        backend.run(inputs())


def test_an_engine_gets_contiguous_tensors_whatever_the_caller_has(backend: Recorder) -> None:
    tensors = {name: np.repeat(tensor, 2, axis=0)[::2] for name, tensor in inputs().items()}
    backend.run(tensors)
    assert all(tensor.flags.c_contiguous for tensor in backend.seen.values())


def test_a_batch_is_the_first_rows_of_a_buffer(backend: Recorder) -> None:
    assert backend.depth == 1
    first, second = backend.buffers(4, 2)
    assert (len(first.tensors["image"]), first.slot, second.slot) == (4, 0, 1)
    assert {name: tensor.shape[1:] for name, tensor in first.tensors.items()} == SPEC.inputs
    assert not np.shares_memory(first.tensors["image"], second.tensors["image"])
    ticket = backend.submit(second, 3)
    assert np.shares_memory(backend.seen["image"], second.tensors["image"])
    assert backend.collect(ticket).logits.shape == (3, 5)
    assert (ticket.buffers, ticket.rows) == (second, 3)


def test_a_ticket_of_another_backend_is_refused(backend: Recorder) -> None:
    with pytest.raises(BackendError, match="expected a batch that this backend was given"):
        backend.collect(Ticket(backend.buffers(2, 1)[0], 2))


def test_a_failure_to_give_back_does_not_hide_what_failed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Recorder) -> None:
        raise BackendError("could not be given back")

    def fail() -> None:
        raise KeyError("first")

    monkeypatch.setattr(Recorder, "_release", refuse)
    with pytest.raises(KeyError, match="first"), Recorder(Path("model"), SPEC):
        fail()
    with pytest.raises(BackendError, match="could not be given back"), Recorder(Path("model"), SPEC):
        pass
