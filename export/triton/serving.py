"""The models that run inside Triton's Python backend; a repository's ``model.py`` names one of them.

Each starts by the bundle's golden examples, so that a server that would compute something else never becomes ready.
Triton gives ``execute`` the requests that it batched; each gets an answer or an error of its own.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...runtime.backends.selection import open_variant
from ...runtime.bundle import Bundle
from ...runtime.engines.engine_options import EngineOptions, parse_profile
from ...runtime.errors import HybridEdgeError
from ...runtime.frame import OUTPUT_NAMES
from ...runtime.golden import check_golden, check_tensors
from ...runtime.preprocess import Preprocessor, decode_image
from .model_config import ENCODED

Tensors = Mapping[str, npt.NDArray[Any]]


class _Served:
    """What both models share: Triton's calls, and an answer for each request."""

    def initialize(self, arguments: Mapping[str, str]) -> None:
        """Open the part of the bundle that lies in the model's folder, and check it; an error leaves it not ready."""
        self._triton = importlib.import_module("triton_python_backend_utils")  # inside the server alone
        self._config: Any = json.loads(arguments["model_config"])
        version = Path(arguments["model_repository"]) / arguments["model_version"]
        self._start(Bundle.open(version / "bundle"))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request of a batch: with its tensors, or with the reason why it has none."""
        names = [item["name"] for item in self._config["input"]]
        given = [
            {name: self._triton.get_input_tensor_by_name(request, name).as_numpy() for name in names}
            for request in requests
        ]
        return [self._response(answer) for answer in self._answers(given)]

    def _start(self, bundle: Bundle) -> None:
        raise NotImplementedError

    def _answers(self, given: Sequence[Tensors]) -> list[Tensors | HybridEdgeError]:
        raise NotImplementedError

    def _response(self, answer: Tensors | HybridEdgeError) -> Any:
        if isinstance(answer, HybridEdgeError):
            fault = self._triton.TritonError(str(answer), self._triton.TritonError.INVALID_ARG)
            return self._triton.InferenceResponse(error=fault)
        tensors = [self._triton.Tensor(name, np.ascontiguousarray(value)) for name, value in answer.items()]
        return self._triton.InferenceResponse(output_tensors=tensors)


class ServedPreprocessing(_Served):
    """Turns ``encoded``, (N, 1) files' bytes, into the spec's tensors by the one preprocessing."""

    def _start(self, bundle: Bundle) -> None:
        self._preprocessor = Preprocessor(bundle.spec)
        check_tensors(bundle, self._preprocessor)

    def _answers(self, given: Sequence[Tensors]) -> list[Tensors | HybridEdgeError]:
        return [self._answer(tensors[ENCODED].ravel().tolist()) for tensors in given]

    def _answer(self, files: Sequence[bytes]) -> Tensors | HybridEdgeError:
        tensors = self._preprocessor.allocate(len(files))
        try:
            for row, data in enumerate(files):  # one decoded picture at a time: each may have 400 MB
                self._preprocessor.fill(decode_image(data, f"image {row}"), tensors, row)
        except HybridEdgeError as error:
            return error
        return tensors


class ServedClassifier(_Served):
    """Turns tensors into logits and probabilities, with hybrid-edge's own engine for the variant's target."""

    def _start(self, bundle: Bundle) -> None:
        chosen = {key: value["string_value"] for key, value in self._config["parameters"].items()}
        variant = next(item for item in bundle.manifest.variants if item.name == chosen["variant"])
        options = EngineOptions(parse_profile(chosen["profile"]))
        self._backend = open_variant(bundle, variant, engine=options).backend
        check_golden(bundle, variant, self._backend, Preprocessor(bundle.spec))

    def _answers(self, given: Sequence[Tensors]) -> list[Tensors | HybridEdgeError]:
        """Run all requests as one batch; if that is refused, each alone, so that the others don't pay for one."""
        together = {name: np.concatenate([tensors[name] for tensors in given]) for name in given[0]}
        try:
            outputs = self._backend.run(together)
        except HybridEdgeError as error:
            return [error] if len(given) == 1 else [self._answers([tensors])[0] for tensors in given]
        ends = np.cumsum([len(next(iter(tensors.values()))) for tensors in given])[:-1]
        parts = {name: np.split(getattr(outputs, name), ends) for name in OUTPUT_NAMES}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(given))]

    def finalize(self) -> None:
        """Give the engine's memory back when the model is unloaded."""
        self._backend.close()
