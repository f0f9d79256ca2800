"""What hybrid-export --triton writes, looked at without a server."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.models.bundles import LABELS, SPEC, files_of, make_bundle

from hybrid_edge.export.triton.repository import write_repository
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import ArtifactHashError, BundleError, UsageError

GOLDEN = 8


def test_each_variant_becomes_a_model_and_an_ensemble_beside_one_preprocessing(bundle: Bundle, tmp_path: Path) -> None:
    names = write_repository(bundle, tmp_path / "models")
    variants = {"fp32-cpu", "fp32-cuda", "fp32-tensorrt", "fp16-cuda"}
    assert set(names) == {f"classify-{name}" for name in variants}
    folders = {path.name for path in (tmp_path / "models").iterdir() if path.is_dir()}
    assert folders == variants | set(names) | {"preprocess"}


def test_only_the_precisions_that_were_asked_for_are_written(bundle: Bundle, tmp_path: Path) -> None:
    assert write_repository(bundle, tmp_path / "models", precisions=["fp16"]) == ("classify-fp16-cuda",)
    with pytest.raises(BundleError, match="expected a variant of int8, found fp16, fp32 alone"):
        write_repository(bundle, tmp_path / "others", precisions=["int8"])
    assert not (tmp_path / "others").exists()


def test_a_variant_s_folder_holds_the_bundle_s_graph_labels_and_a_golden_tensor(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models")
    folder = tmp_path / "models" / "fp32-cpu"
    graph = bundle.verified(bundle.manifest.variants[0].file)
    assert (folder / "1" / "model.onnx").read_bytes() == graph.read_bytes()
    assert (folder / "labels.txt").read_text().splitlines() == list(LABELS)
    warm = np.frombuffer((folder / "warmup" / "image").read_bytes(), "<f4")
    assert np.array_equal(warm, bundle.golden_tensors()["image"][0].ravel())
    assert sorted(path.name for path in (folder / "warmup").iterdir()) == sorted(SPEC.inputs)


def test_a_python_model_s_folder_is_all_of_the_bundle_that_it_opens(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "models", python=True)
    part = Bundle.open(tmp_path / "models" / "fp32-cpu" / "1" / "bundle")
    variant = part.manifest.variants[0]
    assert part.verified(variant.file).is_file()
    assert len(list(part.golden_images())) == len(part.golden_outputs(variant).probabilities) == GOLDEN
    preprocess = files_of(tmp_path / "models" / "preprocess" / "1" / "bundle")
    assert not [name for name in preprocess if name.startswith("artifacts/")]


def test_a_folder_with_something_in_it_is_left_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_repository(bundle, tmp_path / "models", precisions=["fp16"])
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match="expected a new folder"):
        write_repository(bundle, tmp_path / "models")
    assert files_of(tmp_path) == before


def test_a_damaged_bundle_leaves_nothing(tmp_path: Path) -> None:
    damaged = Bundle.open(make_bundle(tmp_path / "bundle"))
    graph = damaged.root / damaged.manifest.variants[0].file.path
    graph.write_bytes(b"x" * graph.stat().st_size)
    with pytest.raises(ArtifactHashError):
        write_repository(damaged, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_kill_leaves_no_half_repository_and_the_next_run_clears_up(bundle: Bundle, tmp_path: Path) -> None:
    code = """
import os, shutil, signal, sys
from pathlib import Path
from hybrid_edge.export.triton import repository
from hybrid_edge.runtime.bundle import Bundle
real, calls = shutil.copyfile, []
def copy(*given):
    calls.append(real(*given))
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
repository.shutil.copyfile = copy
repository.write_repository(Bundle.open(sys.argv[1]), Path(sys.argv[2]))
"""
    models = tmp_path / "models"
    killed = subprocess.run([sys.executable, "-c", code, bundle.root, models], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not models.exists()
    assert any(tmp_path.iterdir())
    write_repository(bundle, models)
    assert list(tmp_path.iterdir()) == [models]


def test_graphs_have_the_inputs_outputs_and_shapes_that_their_configurations_declare(
    bundle: Bundle, tmp_path: Path
) -> None:
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="no tritonclient: make test-triton")
    text_format = pytest.importorskip("google.protobuf.text_format")
    write_repository(bundle, tmp_path / "models")
    for file in (tmp_path / "models").glob("*-*/1/model.onnx"):
        parsed = text_format.Parse((file.parents[1] / "config.pbtxt").read_text(), config.ModelConfig())
        graph = onnx.load(file).graph
        for declared, values in ((parsed.input, graph.input), (parsed.output, graph.output)):
            found = {value.name: shape_of(value) for value in values}
            assert {item.name: list(item.dims) for item in declared} == {name: dims[1:] for name, dims in found.items()}
            assert {dims[0] for dims in found.values()} == {"N"}
            assert {item.data_type for item in declared} == {config.TYPE_FP32}


@pytest.mark.parametrize("python", [False, True])
def test_every_configuration_is_one_that_triton_reads(bundle: Bundle, tmp_path: Path, python: bool) -> None:
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="no tritonclient: make test-triton")
    text_format = pytest.importorskip("google.protobuf.text_format")
    write_repository(bundle, tmp_path / "models", profile=(1, 4, 16), python=python)
    found = {
        file.parent.name: text_format.Parse(file.read_text(), config.ModelConfig())
        for file in (tmp_path / "models").glob("*/config.pbtxt")
    }
    assert all(item.name == name and item.max_batch_size == 16 for name, item in found.items())
    engines = {name: item.backend for name, item in found.items() if not item.platform}
    own = {
        "fp32-cpu": "onnxruntime",
        "fp32-cuda": "onnxruntime",
        "fp16-cuda": "onnxruntime",
        "fp32-tensorrt": "tensorrt",
    }
    assert engines == {"preprocess": "python", **(dict.fromkeys(own, "python") if python else own)}
    for name in engines:
        assert list(found[name].dynamic_batching.preferred_batch_size) == [4, 16]
        for key, value in found[name].model_warmup[0].inputs.items():
            assert (tmp_path / "models" / name / "warmup" / value.input_data_file).is_file(), key
    assert found["fp32-cuda"].instance_group[0].kind == config.ModelInstanceGroup.KIND_GPU
    assert found["fp32-cpu"].instance_group[0].kind == config.ModelInstanceGroup.KIND_CPU
    if not python:
        (accelerator,) = found["fp16-cuda"].optimization.execution_accelerators.gpu_execution_accelerator
        assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
        assert not found["fp32-cpu"].optimization.execution_accelerators.gpu_execution_accelerator
    steps = found["classify-fp32-cpu"].ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["preprocess", "fp32-cpu"]
    assert dict(steps[0].output_map) == dict(steps[1].input_map) == {name: name for name in SPEC.inputs}
    assert found["classify-fp32-cpu"].output[1].label_filename == "labels.txt"


def test_the_readme_says_how_a_plan_is_built_only_where_a_model_needs_one(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "own", profile=(1, 4, 16))
    text = (tmp_path / "own" / "README.md").read_text()
    assert "--optShapes=image:4x12x12x3,sequence:4x6x24" in text
    assert "--load-model classify-fp32-cpu" in text
    write_repository(bundle, tmp_path / "python", python=True)
    text = (tmp_path / "python" / "README.md").read_text()
    assert "trtexec" not in text
    assert ".whl)[gpu,tensorrt]" in text
    assert f"-v {tmp_path / 'python'}:/models:ro -v hybrid-edge-engines:" in text


def test_the_command_writes_one_without_tensorflow(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.root, tmp_path / "bundle")
    code = """
import sys
from hybrid_edge.export.command import main
try:
    main()
finally:
    print([name for name in ("tensorflow", "keras", "tf2onnx", "onnx") if name in sys.modules])
"""
    arguments = [sys.executable, "-c", code, "--triton", "models", "--fp16"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["repository models", "models classify-fp16-cuda"]
    assert done.stdout.splitlines()[-1] == "[]"
    refused = subprocess.run([*arguments, "--auto"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "found --auto" in refused.stderr


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
