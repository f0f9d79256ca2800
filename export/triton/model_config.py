"""Describes each model of a repository as Triton's ModelConfig, in protobuf's text format (``config.pbtxt``).

A bundle becomes three kinds of models: ``preprocess`` turns encoded image files into tensors, one model for each
variant turns tensors into probabilities, and an ensemble for each variant joins the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.engines.engine_options import Profile
from ...runtime.frame import OUTPUT_NAMES
from ...runtime.manifest import Target, Variant
from ...runtime.spec import ModelSpec

PREPROCESS = "preprocess"  # the model's name
ENCODED = "encoded"  # the input that takes the bytes of an image file
LABELS_FILE = "labels.txt"
ENSEMBLE_PREFIX = "classify-"
# decoding takes one core for each instance; more of them on a machine whose GPU waits for pictures
PREPROCESS_INSTANCES = 2

ENUMS = ("TYPE_", "KIND_")
# what ``OnnxRuntimeCuda`` asks for: no TF32, whose 10 bits of mantissa would not pass the limits, and no timing of
# each of cuDNN's algorithms. Triton's backend takes the first as an accelerator's option; the second, which it would
# overwrite there, as a parameter, in which 1 is HEURISTIC
CUDA_OPTIONS = {"use_tf32": "0"}
CUDA_PARAMETERS = {"cudnn_conv_algo_search": "1"}

Fields = Mapping[str, Any]


def ensemble_name(variant: Variant) -> str:
    """Return the name of the model that takes image files and answers with this variant's probabilities."""
    return f"{ENSEMBLE_PREFIX}{variant.name}"


def preprocess_config(spec: ModelSpec, profile: Profile) -> Fields:
    """Describe the Python-backend model from ``encoded``, a file's bytes, to the spec's tensors."""
    return {
        "name": PREPROCESS,
        "backend": "python",
        **_batching(profile),
        "input": [_tensor(ENCODED, (1,), "TYPE_STRING")],
        "output": [_tensor(name, shape) for name, shape in spec.inputs.items()],
        "instance_group": [{"count": PREPROCESS_INSTANCES, "kind": "KIND_CPU"}],
        "model_warmup": [_warmup({ENCODED: (1,)}, "TYPE_STRING")],
    }


def variant_config(spec: ModelSpec, variant: Variant, profile: Profile, *, python: bool) -> Fields:
    """Describe a variant's model from tensors to logits and probabilities.

    It runs in Triton's own ONNX Runtime or TensorRT backend; with ``python`` on hybrid-edge's engines.
    """
    group: dict[str, Any] = {"count": 1, "kind": "KIND_CPU"}
    if variant.target != "cpu":
        group = {"count": 1, "kind": "KIND_GPU", "gpus": [0]}
    return {
        "name": variant.name,
        **(_python_engine(variant, profile) if python else _own_engine(variant.target)),
        **_batching(profile),
        "input": [_tensor(name, shape) for name, shape in spec.inputs.items()],
        "output": _outputs(spec),
        "instance_group": [group],
        "model_warmup": [_warmup(spec.inputs, "TYPE_FP32")],
    }


def ensemble_config(spec: ModelSpec, variant: Variant, profile: Profile) -> Fields:
    """Describe the ensemble of ``preprocess`` and a variant: an image file in, logits and probabilities out."""
    first = {"model_name": PREPROCESS, "model_version": -1, "input_map": [_pair(ENCODED)]}
    second = {"model_name": variant.name, "model_version": -1, "input_map": [_pair(name) for name in spec.inputs]}
    return {
        "name": ensemble_name(variant),
        "platform": "ensemble",
        "max_batch_size": profile[2],
        "input": [_tensor(ENCODED, (1,), "TYPE_STRING")],
        "output": _outputs(spec),
        "ensemble_scheduling": {
            "step": [
                {**first, "output_map": [_pair(name) for name in spec.inputs]},
                {**second, "output_map": [_pair(name) for name in OUTPUT_NAMES]},
            ]
        },
    }


def text_format(fields: Fields, indent: str = "") -> str:
    """Write a message's fields in protobuf's text format; a list is a repeated field, or a map of key and value."""
    lines = []
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                lines.append(f"{indent}{name} {{\n{text_format(item, indent + '  ')}{indent}}}\n")
            else:
                bare = isinstance(item, int) or item.startswith(ENUMS)
                lines.append(f"{indent}{name}: {item if bare else json.dumps(item)}\n")
    return "".join(lines)


def _own_engine(target: Target) -> Fields:
    if target == "tensorrt":
        return {"backend": "tensorrt", "default_model_filename": "model.plan"}
    fields: Fields = {"backend": "onnxruntime", "default_model_filename": "model.onnx"}
    if target == "cpu":
        return fields
    options = [{"key": key, "value": value} for key, value in CUDA_OPTIONS.items()]
    accelerators = {"gpu_execution_accelerator": [{"name": "cuda", "parameters": options}]}
    return {
        **fields,
        "parameters": _parameters(CUDA_PARAMETERS),
        "optimization": {"execution_accelerators": accelerators},
    }


def _python_engine(variant: Variant, profile: Profile) -> Fields:
    parameters = {"variant": variant.name, "profile": ",".join(map(str, profile))}
    return {"backend": "python", "parameters": _parameters(parameters)}


def _parameters(values: Mapping[str, str]) -> list[Fields]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _batching(profile: Profile) -> Fields:
    """Let requests that wait go together: no row of a batch depends on its neighbours, in any variant."""
    preferred = sorted({size for size in profile[1:] if size > 1})
    if not preferred:
        return {"max_batch_size": profile[2]}
    return {"max_batch_size": profile[2], "dynamic_batching": {"preferred_batch_size": preferred}}


def _outputs(spec: ModelSpec) -> list[Fields]:
    logits, probabilities = (_tensor(name, (spec.num_classes,)) for name in OUTPUT_NAMES)
    return [logits, {**probabilities, "label_filename": LABELS_FILE}]


def _tensor(name: str, shape: Sequence[int], kind: str = "TYPE_FP32") -> Fields:
    return {"name": name, "data_type": kind, "dims": list(shape)}


def _pair(name: str) -> Fields:
    return {"key": name, "value": name}


def _warmup(inputs: Mapping[str, Sequence[int]], kind: str) -> Fields:
    values = [
        {"key": name, "value": {"data_type": kind, "dims": list(shape), "input_data_file": name}}
        for name, shape in inputs.items()
    ]
    return {"name": "golden", "batch_size": 1, "inputs": values}
