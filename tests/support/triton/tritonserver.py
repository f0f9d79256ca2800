"""Starts the tritonserver that nvidia-pytriton brings, which has the Python backend alone."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

START_TIMEOUT = 120.0  # seconds
MIN_GLIBC = (2, 35)


def missing() -> str:
    """Why no server can be started by this Python; empty where one can."""
    if reason := unfit():
        return reason
    absent = [name for name in ("pytriton", "tritonclient") if find_spec(name) is None]
    return f"no {' and no '.join(absent)} here: make test-triton" if absent else ""


def unfit() -> str:
    """Why none can be installed on this machine for this Python; empty where one can."""
    name, version = platform.libc_ver()
    glibc = tuple(map(int, version.split(".")[:2])) if name == "glibc" else (0, 0)
    if platform.machine() != "x86_64" or glibc < MIN_GLIBC:
        found = f"{platform.machine()} with {name or 'another'} {version}"
        return f"nvidia-pytriton is for x86-64 with glibc 2.35, found {found}"
    if sys.version_info >= (3, 13):
        return "nvidia-pytriton needs NumPy 1, whose last is for Python 3.12: make test-triton PYTHON=python3.12"
    return ""


class TritonProcess:
    """One server on loopback, of free ports, until ``close``; a context manager."""

    def __init__(self, repository: Path, models: Sequence[str], log: Path) -> None:
        self.repository, self.models, self.log = repository, models, log
        self.http_port, self.grpc_port = free_ports(2)
        self.process = self._start()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def restart(self) -> None:
        """Kill it with SIGKILL and start it again on the same ports."""
        self.kill()
        self.process = self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> "TritonProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        root = Path(str(find_spec("pytriton").origin)).parent  # type: ignore[union-attr]
        server = root / "tritonserver"
        backends = self._backends(root)
        libraries = root.parent / "nvidia_pytriton.libs"
        arguments = [
            *("--model-repository", os.fspath(self.repository), "--backend-directory", os.fspath(backends)),
            *("--model-control-mode", "explicit", "--disable-auto-complete-config", "--allow-metrics", "false"),
            *("--http-address", "127.0.0.1", "--http-port", str(self.http_port)),
            *("--grpc-address", "127.0.0.1", "--grpc-port", str(self.grpc_port)),
        ]
        for model in self.models:
            arguments += ["--load-model", model]
        environment = os.environ | {
            "LD_LIBRARY_PATH": os.fspath(libraries),
            # the Python backend takes the first python3's packages, and passes PYTHONPATH over
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [server / "bin" / "tritonserver", *arguments], env=environment, stdout=log, stderr=log
            )
        return self._await(process)

    def _backends(self, root: Path) -> Path:
        """The backends with the stub of this Python's version, which the server expects beside the Python backend."""
        folder = self.log.parent / "backends"
        if not folder.exists():
            shutil.copytree(root / "tritonserver" / "backends", folder)
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            stub = root / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
            shutil.copy2(stub, folder / "python")
        return folder

    def _await(self, process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and process.poll() is None:
            if listens(self.grpc_port) and listens(self.http_port):  # once all models are ready
                return process
            time.sleep(0.1)
        process.kill()
        process.wait()
        raise AssertionError(f"tritonserver did not start:\n{self.log.read_text(errors='replace')[-4000:]}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]
    finally:
        for item in sockets:
            item.close()


if __name__ == "__main__":
    print(unfit())  # noqa: T201  # for make test-triton
