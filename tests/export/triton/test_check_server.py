"""A real Triton server on loopback, its answers, and hybrid-export --check-triton on it."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import bundles
from support.models.bundles import SPEC, encode, make_bundle, make_weights, sample_image
from support.triton.tritonserver import TritonProcess, free_ports, missing

from hybrid_edge.export.triton.check_server import check_server
from hybrid_edge.export.triton.repository import write_repository
from hybrid_edge.export.triton.server_client import TritonServer
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.errors import ServerError, UsageError

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ENSEMBLE = "classify-fp32-cpu"
CLIENTS, IMAGES = 8, 1000
# a PNG's header of 60,000 x 60,000 pixels, which would be 10 GB
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0" + bytes(64)


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    code = "from hybrid_edge.export.command import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def ask(server: TritonServer, *files: bytes) -> np.ndarray[Any, Any]:
    encoded = {"encoded": np.array([[file] for file in files], dtype=object)}
    return server.infer(ENSEMBLE, encoded, ("probabilities",))["probabilities"]


def by_clients(address: str, work: Callable[[TritonServer, int], Any], count: int) -> list[Any]:
    """Do pieces of work, numbered from 0, from several clients at once, each with a connection of its own."""
    own = threading.local()

    def piece(number: int) -> Any:
        if not hasattr(own, "server"):
            own.server = TritonServer(address)
        return work(own.server, number)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(piece, range(count)))


def settled(server: TritonServer) -> tuple[int, int]:
    """The variant's rows and executions, which the server counts a moment after it has answered."""
    found = None
    while found != (found := server.counts("fp32-cpu")):
        time.sleep(0.2)
    return found


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle of the same inputs, outputs and labels with other weights."""
    monkeypatch.setattr(bundles, "make_weights", lambda spec: make_weights(spec, seed=8))
    return Bundle.open(make_bundle(tmp_path / "other"))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_golden_examples_pass_alone_in_batches_and_at_once(server: TritonProcess, bundle: Bundle, scheme: str) -> None:
    check = check_server(getattr(server, scheme), bundle)
    assert [item.model for item in check.models] == ["preprocess", "fp32-cpu", ENSEMBLE]
    assert check.missing == ("classify-fp32-cuda", "classify-fp32-tensorrt", "classify-fp16-cuda")
    for item in check.models:
        assert item.passed
        assert max(item.alone, item.beside, item.at_once) <= item.limit
        assert item.executions < item.rows, "the server batched none of the requests that came at once"


def test_a_thousand_images_from_eight_clients_get_the_labels_of_hybrid_infer(
    server: TritonProcess, bundle: Bundle
) -> None:
    frames = [sample_image(seed, 16 + seed % 40, 16 + seed % 33) for seed in range(IMAGES)]
    with Classifier.load(bundle, backend="cpu", precision="fp32") as classifier:
        expected = classifier.predict(frames)
    with TritonServer(server.http) as first:
        before = settled(first)
        rows = by_clients(server.http, lambda client, number: ask(client, encode(frames[number]))[0], IMAGES)
        counted, executions = np.subtract(settled(first), before)
    labels = [bundle.labels[int(row.argmax())] for row in rows]
    assert labels == [item.label for item in expected]
    assert len(set(labels)) > 1
    assert counted == IMAGES
    assert executions < IMAGES
    np.testing.assert_allclose(rows, [item.probabilities for item in expected], atol=1e-6)


def test_what_can_t_be_decoded_gets_an_error_while_the_others_go_on(server: TritonProcess) -> None:
    good, bad = encode(sample_image(3)), (b"no image", b"", encode(sample_image(4))[:60], BOMB)

    def send(client: TritonServer, number: int) -> "np.ndarray[Any, Any] | str":
        try:
            return ask(client, bad[number // 5 % 4] if number % 5 == 0 else good)
        except ServerError as error:
            return str(error)

    answers = by_clients(server.grpc, send, 400)
    with TritonServer(server.http) as client:
        alone = ask(client, good)
        with pytest.raises(ServerError, match="image 1: the file is empty"):
            ask(client, good, b"", good)
    refused = [answer for number, answer in enumerate(answers) if number % 5 == 0]
    assert all(isinstance(answer, str) for answer in refused)
    assert len(Counter(refused)) == len(bad)
    assert any("pixels" in answer for answer in refused)
    for answer in (answer for number, answer in enumerate(answers) if number % 5):
        np.testing.assert_allclose(answer, alone, atol=1e-6)


def test_tensors_that_are_not_finite_cost_their_own_request_alone(server: TritonProcess, bundle: Bundle) -> None:
    tensors = {name: tensor[:1] for name, tensor in bundle.golden_tensors().items()}
    damaged = {name: np.full_like(tensor, np.nan) for name, tensor in tensors.items()}
    expected = bundle.golden_outputs(bundle.manifest.variants[0]).probabilities[:1]

    def send(client: TritonServer, number: int) -> None:
        if number % 3 == 0:
            with pytest.raises(ServerError, match="expected finite values"):
                client.infer("fp32-cpu", damaged, ("probabilities",))
        else:
            found = client.infer("fp32-cpu", tensors, ("probabilities",))["probabilities"]
            np.testing.assert_allclose(found, expected, atol=1e-5)

    by_clients(server.http, send, 240)


def test_labels_are_named_by_the_server_itself(server: TritonProcess, bundle: Bundle) -> None:
    image = bundle.read(bundle.manifest.golden.images[2].file)
    expected = bundle.golden_outputs(bundle.manifest.variants[0]).probabilities[2]
    with TritonServer(server.http) as client:
        labels = client.labels(ENSEMBLE, {"encoded": np.array([[image]], dtype=object)}, "probabilities")
    assert labels == [bundle.labels[int(expected.argmax())]]


def test_the_readme_s_request_works_as_it_is_written(server: TritonProcess, bundle: Bundle) -> None:
    text = (server.repository / "README.md").read_text().partition("## Ask\n")[2].partition("\n## Prove")[0]
    code = "\n".join(line[4:] for line in text.splitlines()).replace("localhost:8000", f"127.0.0.1:{server.http_port}")
    image = bundle.verified(bundle.manifest.golden.images[0].file)
    done = subprocess.run([sys.executable, "-c", code, image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(label in done.stdout for label in bundle.labels)


def test_the_command_prints_a_table_and_ends_with_0(server: TritonProcess, bundle: Bundle) -> None:
    done = command("--check-triton", server.http, bundle.root)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if "fp32-cpu" in line] == ["passed", "passed"]
    assert "classify-fp16-cuda" in done.stderr


def test_a_server_with_other_weights_ends_with_exit_code_3(server: TritonProcess, other: Bundle) -> None:
    done = command("--check-triton", server.grpc, other.root)
    assert done.returncode == 3
    assert "differs" in done.stdout
    assert "fp32-cpu, classify-fp32-cpu" in done.stderr


def test_a_server_with_other_shapes_or_models_is_refused(server: TritonProcess, tmp_path: Path) -> None:
    larger = Bundle.open(make_bundle(tmp_path / "larger", SPEC.replace(image_size=18)))
    with pytest.raises(ServerError, match=r"preprocess: expected .*18, 18, 3.*found .*12, 12, 3"):
        check_server(server.http, larger)
    unknown = Bundle.open(make_bundle(tmp_path / "unknown", variants=[("int8", "cpu")]))
    with pytest.raises(ServerError, match="expected one of classify-int8-cpu to be ready, found classify-fp32-cpu"):
        check_server(server.http, unknown)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_where_nothing_answers_is_said_with_the_address(bundle: Bundle, scheme: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServerError, match=f"{port}: expected a Triton server, found none that answers"):
        check_server(f"{scheme}://127.0.0.1:{port}", bundle)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_what_answers_without_being_triton_is_said(bundle: Bundle, scheme: str) -> None:
    def answer() -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                with listening.accept()[0] as connection:
                    connection.recv(1024)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ServerError, match="expected a Triton server, found none that answers"):
            check_server(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}", bundle)
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:x", "http://host/v2"])
def test_an_address_of_another_form_is_refused(bundle: Bundle, address: str) -> None:
    with pytest.raises(UsageError, match="expected an address such as"):
        check_server(address, bundle)


@pytest.fixture(scope="module")
def own(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    """A server of a test's own, that may be damaged and killed."""
    folder = tmp_path_factory.mktemp("own")
    write_repository(bundle, folder / "models", precisions=["fp32"], python=True)
    with TritonProcess(folder / "models", [ENSEMBLE], folder / "server.log") as process:
        yield process


def test_a_killed_server_is_missed_and_once_it_is_back_answers_as_before(own: TritonProcess, bundle: Bundle) -> None:
    image = encode(sample_image(5))
    with TritonServer(own.http) as client:
        before = ask(client, image)
        own.kill()
        with pytest.raises(ServerError, match="found none that answers"):
            ask(client, image)
    own.restart()
    with TritonServer(own.http) as client:
        np.testing.assert_array_equal(ask(client, image), before)
    assert all(item.passed for item in check_server(own.grpc, bundle).models)


def test_labels_in_another_order_on_the_server_are_found(own: TritonProcess, bundle: Bundle) -> None:
    labels = own.repository / ENSEMBLE / "labels.txt"
    text = labels.read_text()
    labels.write_text("".join(reversed(text.splitlines(keepends=True))))
    try:
        own.restart()
        checks = {item.model: item for item in check_server(own.http, bundle).models}
    finally:
        labels.write_text(text)
    assert not checks[ENSEMBLE].passed
    assert checks[ENSEMBLE].wrong_labels
    assert checks[ENSEMBLE].alone <= checks[ENSEMBLE].limit
    assert checks["fp32-cpu"].passed


def test_a_server_that_would_compute_something_else_does_not_become_ready(own: TritonProcess, bundle: Bundle) -> None:
    part = own.repository / "fp32-cpu" / "1" / "bundle"
    kept = part.with_name("kept")
    shutil.copytree(part, kept)
    graph = next((part / "artifacts").iterdir())
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    try:
        own.kill()
        with pytest.raises(AssertionError, match="expected SHA-256"):
            own.restart()
    finally:
        shutil.rmtree(part)
        kept.rename(part)
