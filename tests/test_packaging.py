import json
import os
import re
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
import skimage.data
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from support.machines.source_tree import ROOMS, ROOT, copy_source, python, require_index
from support.models.bundles import LABELS, encode, make_bundle, sample_image

NOT_FOR_A_DEVICE = ("tensorflow", "keras", "tf2onnx", "onnx", "h5py", "matplotlib", "scikit-learn", "tensorboard")
PHOTOGRAPH = Path(skimage.data.__file__).with_name("chelsea.png")


@dataclass(frozen=True)
class Built:
    """What ``python -m build`` made of a copy of the checkout: the sdist, and the wheel made from that sdist."""

    wheel: Path
    sdist: Path

    @property
    def files(self) -> set[str]:
        names = zipfile.ZipFile(self.wheel).namelist()
        return {name for name in names if ".dist-info/" not in name}

    @property
    def metadata(self) -> PathDistribution:
        inside = zipfile.Path(self.wheel)
        return PathDistribution(next(item for item in inside.iterdir() if item.name.endswith(".dist-info")))


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel with ``[cpu]`` and nothing else, and an empty folder to work in."""

    bin: Path
    folder: Path

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, from the empty folder, with nothing of the tests' own environment."""
        return subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.folder,
            env={"PATH": f"{self.bin}:{os.defpath}", "HOME": str(self.folder), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def python(self, code: str) -> str:
        """What a few lines of Python print there."""
        result = self.run("python", "-c", code)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    require_index(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="session")
def built(index: None, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    tree = copy_source(folder / "tree")
    result = python("-m", "build", "--outdir", folder / "dist", tree)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "venv"
    assert python("-m", "venv", "--without-pip", environment).returncode == 0
    options = ("--python", environment / "bin" / "python", "install", "--quiet", "--no-compile")
    result = python("-m", "pip", *options, "-c", ROOT / "constraints.txt", f"{built.wheel}[cpu]")
    assert result.returncode == 0, result.stderr
    empty = folder / "empty"
    empty.mkdir()
    return Installed(environment / "bin", empty)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("elsewhere") / "bundle")


def modules() -> set[str]:
    kinds = (".py", ".csv", ".onnx", ".json", ".html", ".css", ".js", ".svg")
    paths = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in kinds)
    return {f"hybrid_edge/{path.relative_to(ROOT)}" for path in paths} | {"hybrid_edge/__init__.py"}


def extra(requires: list[str], name: str) -> set[str]:
    own = [line for line in requires if re.search(rf"""extra == ["']{name}["']""", line)]
    return {re.split(r"[^\w.-]", line)[0].lower() for line in own}


def asked_for(built: Built, name: str, python: str) -> dict[str, SpecifierSet]:
    """The versions that an extra allows on a version of Python, by distribution."""
    lines = [Requirement(line) for line in built.metadata.requires or []]
    environment = {"extra": name, "python_version": python}
    return {item.name: item.specifier for item in lines if item.marker and item.marker.evaluate(environment)}


def test_the_wheel_holds_every_module_with_its_tables_and_graphs_and_nothing_else(built: Built) -> None:
    assert built.files == modules() | {"hybrid_edge/py.typed"}


def test_hybrid_edge_is_the_only_top_level_name_on_every_python_and_machine(built: Built) -> None:
    assert built.wheel.name.endswith("-py3-none-any.whl")
    assert (built.metadata.read_text("top_level.txt") or "").split() == ["hybrid_edge"]
    recorded = [str(path) for path in built.metadata.files or []]
    assert {name.split("/")[0] for name in recorded if ".dist-info/" not in name} == {"hybrid_edge"}


def test_the_core_needs_four_packages_and_what_python_310_lacks(built: Built) -> None:
    core = [line for line in built.metadata.requires or [] if "extra ==" not in line]
    names = {re.split(r"[^\w.-]", line)[0]: line for line in core}
    assert names.pop("tomli").endswith('python_version < "3.11"')
    assert names.keys() == {"numpy", "typer", "pydantic", "rich"}


def test_train_leaves_the_choice_of_onnx_runtime_open(built: Built) -> None:
    """onnxruntime and onnxruntime-gpu install the same files: the one that comes second wins."""
    found = extra(built.metadata.requires or [], "train")
    assert {"tensorflow", "tf2onnx", "opencv-python"} <= found
    assert not [name for name in found if name.startswith("onnxruntime")]


def test_jetson_replaces_nothing_that_jetpack_brings(built: Built) -> None:
    # NumPy the core needs in any case, and JetPack 6's OpenCV can't be used with every one
    assert extra(built.metadata.requires or [], "jetson") == {"cuda-python", "numpy"}


@pytest.mark.parametrize(
    ("name", "python", "package", "fitting", "others"),
    [
        ("jetson", "3.10", "numpy", ["1.26.4"], ["2.2.6"]),  # JetPack 6
        ("jetson", "3.10", "cuda-python", ["12.6.2.post1"], ["12.9.10", "13.4.4"]),
        ("jetson", "3.12", "cuda-python", ["13.4.4"], ["12.9.10"]),  # JetPack 7
        ("gpu", "3.12", "onnxruntime-gpu", ["1.31.0", "1.31.1"], ["1.23.2", "1.30.0"]),
        ("gpu-cu12", "3.12", "onnxruntime-gpu", ["1.23.2", "1.26.0"], ["1.22.0", "1.27.0", "1.31.1"]),
        ("tensorrt-cu12", "3.12", "tensorrt-cu12", ["10.3.0", "11.4.0.106"], ["10.2.0"]),
        ("rtx-cu12", "3.12", "tensorrt-rtx-cu12", ["1.7.1.116"], []),
        *[(f"{name}-cu12", "3.12", "cuda-python", ["12.9.10"], ["13.0.0"]) for name in ("gpu", "tensorrt", "rtx")],
    ],
)
def test_an_extra_takes_the_versions_that_fit_its_jetpack_or_its_cuda(
    built: Built, name: str, python: str, package: str, fitting: list[str], others: list[str]
) -> None:
    allowed = asked_for(built, name, python)[package]
    assert [version for version in (*fitting, *others) if allowed.contains(version)] == fitting


def test_no_extra_but_train_brings_tensorflow(built: Built) -> None:
    for name in ("cpu", "gpu", "gpu-cu12", "tensorrt", "tensorrt-cu12", "rtx", "rtx-cu12", "jetson", "scale"):
        found = extra(built.metadata.requires or [], name)
        assert found, name
        assert not found & set(NOT_FOR_A_DEVICE), name


def test_the_sdist_holds_files_and_no_links(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        members = sdist.getmembers()
    assert not [member.name for member in members if not (member.isfile() or member.isdir())]
    names = {member.name.partition("/")[2] for member in members}
    assert {f"src/{module}" for module in modules()} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "src/hybrid_edge/py.typed"} <= names


def test_nothing_of_training_is_installed_with_cpu(installed: Installed) -> None:
    code = "from importlib.metadata import distributions; print(*{d.name.lower() for d in distributions()})"
    names = set(installed.python(code).split())
    assert {"hybrid-edge", "numpy", "onnxruntime", "opencv-python"} <= names
    assert not names & set(NOT_FOR_A_DEVICE)


def test_hybrid_infer_prints_json_from_an_empty_folder(installed: Installed, bundle: Path) -> None:
    result = installed.run("hybrid-infer", PHOTOGRAPH, "--bundle", bundle, "--json")
    assert result.returncode == 0, result.stderr
    (answer,) = map(json.loads, result.stdout.splitlines())
    assert answer["source"] == str(PHOTOGRAPH)
    assert sorted(answer["labels"]) == sorted(LABELS)
    assert "golden check: 8 examples" in result.stderr


@pytest.mark.parametrize(
    "command", ["hybrid-infer", "hybrid-compare", "hybrid-score", "hybrid-train", "hybrid-export", "hybrid-prepare"]
)
def test_help_needs_no_extra_but_cpu(installed: Installed, command: str) -> None:
    result = installed.run(command, "--help")
    assert result.returncode == 0, result.stderr
    assert "Example" in result.stdout


@pytest.mark.parametrize(
    "command", ["hybrid-train data", "hybrid-prepare digits there", "hybrid-export model.keras --images photos"]
)
def test_what_needs_the_train_extra_is_one_line_that_names_it(installed: Installed, command: str) -> None:
    (installed.folder / "photos").mkdir(exist_ok=True)
    for seed in range(8):
        (installed.folder / "photos" / f"{seed}.png").write_bytes(encode(sample_image(seed)))
    (installed.folder / "model.keras").write_bytes(b"")
    result = installed.run(*command.split())
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "hybrid-edge[train" in result.stderr


def test_a_missing_opencv_or_engine_is_an_error_that_names_the_extra(installed: Installed, bundle: Path) -> None:
    code = f"""
import sys
from hybrid_edge import runtime
for absent in ("cv2", "onnxruntime"):
    sys.modules[absent] = None
    try:
        runtime.Classifier.load({str(bundle)!r})
    except runtime.BackendUnavailableError as error:
        print(error)
    del sys.modules[absent]
"""
    lines = installed.python(code).splitlines()
    assert len(lines) == 2, lines
    assert all("hybrid-edge[cpu]" in line for line in lines)
