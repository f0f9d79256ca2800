"""Talks to a Triton server over HTTP or gRPC; tritonclient is known here alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import numpy.typing as npt

from ...runtime.errors import BackendUnavailableError, ServerError, UsageError

# each scheme's module, its port where an address names none, and whether it is encrypted
SCHEMES = {
    "http": ("http", 8000, False),
    "https": ("http", 443, True),
    "grpc": ("grpc", 8001, False),
    "grpcs": ("grpc", 443, True),
}
TIMEOUT = 60.0  # seconds for one answer
READY = "READY"
SILENT = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")  # gRPC's words for an address without a server

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs, each a datatype of the protocol and a shape whose first size is the batch's (-1).

    ``batch`` is the most rows that go together; 0 where the model takes no batches.
    """

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    batch: int


class TritonServer:
    """One connection to a server, for one thread.

    ``address`` is ``http://HOST:PORT``, ``https://…``, ``grpc://…`` or ``grpcs://…``.

    Raises:
        BackendUnavailableError: tritonclient is not installed; the message names the extra.
        UsageError: the address is of another form.
        ServerError: nothing answers there, or it is not ready; every method raises it where the server fails.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        kind, where, encrypted = _parse(address)
        self._library, utilities = _import(kind), _import("utils")
        self._fault = utilities.InferenceServerException
        self._json = {"as_json": True} if kind == "grpc" else {}
        self._timeout = {"client_timeout": TIMEOUT} if kind == "grpc" else {}
        timeouts = {} if kind == "grpc" else {"connection_timeout": TIMEOUT, "network_timeout": TIMEOUT}
        with self._answering("ready"):
            self._client = self._library.InferenceServerClient(where, ssl=encrypted, **timeouts)
            ready = self._client.is_server_ready()
        if not ready:
            raise ServerError(f"{address}: expected a Triton server that is ready, found one that is not; see its log")

    def ready_models(self) -> frozenset[str]:
        """Return the names of the models that answer requests."""
        with self._answering("a list of models"):
            listed = self._client.get_model_repository_index(**self._json)
        models = listed.get("models", []) if isinstance(listed, dict) else listed
        return frozenset(item["name"] for item in models if item.get("state") == READY)

    def signature(self, model: str) -> Signature:
        """Return a model's inputs and outputs."""
        with self._answering(model):
            metadata = self._client.get_model_metadata(model, **self._json)
            config = self._client.get_model_config(model, **self._json)
        inputs, outputs = (
            {item["name"]: (item["datatype"], tuple(map(int, item["shape"]))) for item in metadata[side]}
            for side in ("inputs", "outputs")
        )
        return Signature(inputs, outputs, int(config.get("config", config).get("max_batch_size", 0)))

    def infer(self, model: str, inputs: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
        """Send one request, of float32 arrays or of bytes as objects, and return the outputs of these names."""
        wanted = [self._library.InferRequestedOutput(name) for name in names]
        result = self._infer(model, inputs, wanted)
        return {name: result.as_numpy(name) for name in names}

    def labels(self, model: str, inputs: Mapping[str, Array], output: str) -> list[str]:
        """Send one request, of N rows, and return each row's most probable label as the server names it."""
        result = self._infer(model, inputs, [self._library.InferRequestedOutput(output, class_count=1)])
        # PROBABILITY:INDEX:LABEL, of which the label may hold colons
        return [bytes(item).decode().split(":", 2)[-1] for item in result.as_numpy(output).ravel()]

    def counts(self, model: str) -> tuple[int, int]:
        """Return how many rows the model has computed since it was loaded, and in how many executions."""
        with self._answering(model):
            found = self._client.get_inference_statistics(model, **self._json)["model_stats"]
        rows, executions = (
            sum(int(item.get(name, 0)) for item in found) for name in ("inference_count", "execution_count")
        )
        return rows, executions

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _infer(self, model: str, inputs: Mapping[str, Array], wanted: list[Any]) -> Any:
        given = []
        for name, array in inputs.items():
            tensor = self._library.InferInput(name, list(array.shape), datatype(array))
            tensor.set_data_from_numpy(array)
            given.append(tensor)
        with self._answering(model):
            return self._client.infer(model, given, outputs=wanted, **self._timeout)

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._fault as error:
            if str(error.status()) in SILENT:
                raise self._silent(error) from error
            raise ServerError(f"{self.address}: {what}: the server answered: {error.message()}") from error
        except (OSError, HTTPException, ValueError) as error:  # it fails, speaks no HTTP, or answers without JSON
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> ServerError:
        return ServerError(
            f"{self.address}: expected a Triton server, found none that answers ({error or type(error).__name__}); "
            "start it, or name its address: http://HOST:8000 or grpc://HOST:8001"
        )


def datatype(array: Array) -> str:
    """Return the protocol's name for what an array holds: bytes as objects, or float32."""
    return "BYTES" if array.dtype == object else "FP32"


def _parse(address: str) -> tuple[str, str, bool]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in SCHEMES or not host or parts.path.strip("/") or parts.query or parts.username:
        raise UsageError(
            f"--check-triton: expected an address such as http://HOST:8000 or grpc://HOST:8001, found {address!r}"
        )
    kind, usual, encrypted = SCHEMES[parts.scheme]
    return kind, f"[{host}]:{port or usual}" if ":" in host else f"{host}:{port or usual}", encrypted


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"tritonclient.{module}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: tritonclient's own word for a part that is missing
        raise BackendUnavailableError(
            f"--check-triton: expected tritonclient, found none that can be imported ({error}): "
            "pip install 'hybrid-edge[triton]'"
        ) from error
