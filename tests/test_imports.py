import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import tomllib

import hybrid_edge

ROOT = Path(__file__).parents[1]
ROOMS = ("train", "calib", "export", "runtime")
HEAVY = ("tensorflow", "keras", "tf2onnx", "onnx", "matplotlib", "sklearn")
DEVICE = ("numpy", "cv2", "onnxruntime", "paho")  # what a command on a device loads once it has something to do
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    ".".join(("hybrid_edge", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
} | {"hybrid_edge": ROOT / "src" / "hybrid_edge" / "__init__.py"}
every_module = pytest.mark.parametrize("module", MODULES)


def run(code: str, *arguments: str) -> str:
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@cache
def source(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def is_public(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def defined(tree: ast.AST) -> set[str]:
    """Every name that a module binds outside of functions and classes, under ``if`` and ``try`` too."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(item.asname or item.name).partition(".")[0] for item in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            names |= defined(node)
    return names


def public_definitions(module: str) -> Iterator[tuple[str, ast.AST]]:
    for node in source(module).body:
        if is_public(node):
            yield node.name, node  # type: ignore[attr-defined]
        if is_public(node) and isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{item.name}", item) for item in node.body if is_public(item))  # type: ignore[attr-defined]


def absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def test_tensorflow_starts_without_what_keras_alone_wants_and_which_is_there_afterwards() -> None:
    code = """
import sys
from hybrid_edge.train.tensorflow_import import import_tensorflow
import_tensorflow()
import keras.wrappers
print([name for name in sys.modules if name.partition(".")[0] in ("sklearn", "matplotlib")])
import sklearn, matplotlib.pyplot
"""
    assert run(code) == "[]\n"


def test_a_run_loads_no_more_of_our_modules_than_it_needs() -> None:
    code = """
import sys, hybrid_edge.runtime.commands.infer, hybrid_edge.runtime.pipeline.classify
print(*(name for name in sys.modules if name.startswith("hybrid_edge.")))
"""
    loaded = run(code).split()
    assert len(loaded) < 105
    # these come with --save, --mqtt and --config
    for unwanted in ("outputs.recorder", "outputs.mqtt", "commands.config_file"):
        assert f"hybrid_edge.runtime.{unwanted}" not in loaded


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert version("hybrid-edge") == hybrid_edge.__version__


@pytest.mark.parametrize("module", [name for name in MODULES if exported(source(name)) is not None])
def test_what_a_package_exports_it_defines(module: str) -> None:
    names = exported(source(module)) or []
    assert set(names) - defined(source(module)) == set()
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_")]


@every_module
def test_what_a_module_takes_from_another_is_public_there(module: str) -> None:
    for node in ast.walk(source(module)):
        if not isinstance(node, ast.ImportFrom) or absolute(module, node) not in MODULES:
            continue
        taken = {item.name for item in node.names} - {"__version__"}
        assert not [name for name in taken if name.startswith("_")], f"{module} reaches into {absolute(module, node)}"


def test_a_name_means_one_thing_in_the_whole_product() -> None:
    files = [name.rpartition(".")[2] for name, path in MODULES.items() if path.name != "__init__.py"]
    classes = [node.name for name in MODULES for node in source(name).body if isinstance(node, ast.ClassDef)]
    counts = Counter(files) + Counter(classes)
    assert {name for name, count in counts.items() if count > 1} <= {"__main__", "command"}


@every_module
def test_every_public_name_has_a_docstring(module: str) -> None:
    assert ast.get_docstring(source(module)), f"{module} has none"
    bare = [name for name, node in public_definitions(module) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert bare == []


@pytest.mark.parametrize("page", [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=str)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for room in (*ROOMS, "tests", "benchmarks", "docs")
        for path in (ROOT / room).rglob("*.py")
    }
    named = re.findall(r"(?<![\w./*…-])[a-z0-9_/]+\.py\b", page.read_text(encoding="utf-8"))
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []


def test_the_commands_are_those_of_the_project_file() -> None:
    installed = {item.name: item.value for item in distribution("hybrid-edge").entry_points}
    assert installed == PROJECT["scripts"], "reinstall: pip install -e ."


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_help_shows_an_example_and_loads_nothing_heavy(command: str) -> None:
    assert Path(sys.executable).with_name(command).is_file()
    heavy = HEAVY + DEVICE * PROJECT["scripts"][command].startswith("hybrid_edge.runtime.")
    code = f"""
import importlib, sys
sys.argv = sys.argv[1:] + ["--help"]
module, _, function = {PROJECT["scripts"][command]!r}.partition(":")
try:
    getattr(importlib.import_module(module), function)()
except SystemExit as leaving:
    print("code", leaving.code or 0)
print("heavy", [name for name in {heavy!r} if name in sys.modules])
"""
    printed = run(code, command)
    assert "Example" in printed
    assert printed.splitlines()[-2:] == ["code 0", "heavy []"]


@pytest.mark.parametrize("folder", ["benchmarks", "tests/soak", "docs"])
def test_what_no_test_runs_imports_only_what_the_package_has(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hybrid_edge"):
                content = MODULES[str(node.module)].read_text()
                for name in (item.name for item in node.names):
                    there = f"{node.module}.{name}" in MODULES or re.search(rf"\b{name}\b", content)
                    assert there, f"{file}: {node.module} has no {name}"
