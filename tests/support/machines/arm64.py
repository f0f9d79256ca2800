"""Tests on 64-bit ARM: with this Python where the machine is one, else with an emulated Debian's, kept in ``.arm64/``.

    python tests/support/machines/arm64.py tests/runtime -k golden      # pytest's arguments

``.arm64/`` looks like a virtual environment, and nothing there needs root, a chroot or binfmt: ``bin/python`` is a
shell script that starts Debian's arm64 Python under qemu-aarch64, so a process started from ``sys.executable`` is
emulated as well. Debian's packages are unpacked beside each other, wheels for ARM by this machine's own pip. QEMU takes
an absolute path from ``.arm64/root`` first, where it exists: that is how /proc/cpuinfo is an ARM's, without which ONNX
Runtime crashes on import.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[3]
PLACE = ROOT / ".arm64"
SYSROOT = PLACE / "root"
STAMP = PLACE / ".installed"
TOOLS = {"qemu-aarch64": "qemu-user", "apt-get": "apt", "dpkg": "dpkg"}  # and the Debian package that brings it
DEBIAN = ("python3", "libgl1", "libglib2.0-0")  # the last two for OpenCV's wheel
PACKAGES = (".[cpu]", "onnx", "pytest")
GLIBCS = (17, 27, 28)  # 2.x, of the manylinux wheels that Debian 12 runs
ANSWERS = ("tests/runtime/test_made_elsewhere.py", "-k", "golden_check or exporters_answers")
# below tests/runtime; what times itself, opens windows or needs more than the runtime, on a CPU ten times slower
LEFT_OUT = (
    *(
        "draw",
        "pipeline",
        "service",
        "commands/test_doctor.py",
        "commands/test_live_command.py",
        "doctor/test_trials.py",
    ),
    *("outputs/test_recordings_on_disk.py", "outputs/test_window.py"),
    *("sources/test_child.py", "sources/test_live.py", "sources/test_mjpeg.py", "sources/test_stream.py"),
    *("test_imports.py", "test_standard_streams.py"),
)
# as /proc/cpuinfo shows them: with dot products of 8 bits (Jetson Orin's A78AE is its successor), and without
# (Raspberry Pi 4)
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
CPUS = {
    "cortex-a76": ("0xd0b", f"{FEATURES} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    "cortex-a72": ("0xd08", FEATURES),
}


def main() -> None:
    """Run the tests; where the ARM is emulated, those of a bundle's answers also on a CPU without dot products."""
    arguments = sys.argv[1:] or ["tests/runtime"]
    if platform.machine() in ("aarch64", "arm64"):
        sys.exit(pytest(sys.executable, *arguments))
    for tool, package in TOOLS.items():
        require(shutil.which(tool) is not None, f"{tool}, found none: on Debian, apt install {package}")
    if not STAMP.exists() or STAMP.read_text() != wanted():
        install()
    newer, older = CPUS
    left_out = [f"--ignore=tests/runtime/{name}" for name in LEFT_OUT]
    sys.exit(emulate(newer, *left_out, *arguments) or emulate(older, *ANSWERS))


def require(there: bool, what: str) -> None:
    """End with what is expected, where it is not there."""
    if not there:
        fail(f"expected {what}")


def say(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


def fail(message: str) -> NoReturn:
    sys.exit(f"make test-arm64: {message}")


def pytest(python: str, *arguments: str, cpu: str = "") -> int:
    """Run pytest from the repository's root; returns its exit code."""
    environment = os.environ | ({"QEMU_CPU": cpu} if cpu else {})
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def emulate(cpu: str, *arguments: str) -> int:
    part, features = CPUS[cpu]
    lines = (f"Features\t: {features}", "CPU implementer\t: 0x41", "CPU architecture: 8", "CPU variant\t: 0x0")
    cores = ["\n".join((f"processor\t: {n}", *lines, f"CPU part\t: {part}\n")) for n in range(os.cpu_count() or 1)]
    (SYSROOT / "proc" / "cpuinfo").write_text("\n".join(cores))
    say(f"== 64-bit ARM, {cpu} emulated")
    return pytest(os.fspath(PLACE / "bin" / "python"), *arguments, cpu=cpu)


def wanted() -> str:
    """What an installation is made of, as a hash."""
    files = (Path(__file__), ROOT / "pyproject.toml", ROOT / "constraints.txt")
    return hashlib.sha256(b"\0".join([os.fsencode(PLACE), *(file.read_bytes() for file in files)])).hexdigest()


def install() -> None:
    """Make ``.arm64/`` anew: some hundred MB are downloaded, 650 MB are kept."""
    say("installing an ARM's Python and its packages into .arm64")
    shutil.rmtree(PLACE, ignore_errors=True)
    unpack_debian()
    (python,) = (SYSROOT / "usr" / "bin").glob("python3.[0-9]*[0-9]")
    packages = PLACE / "lib" / python.name / "site-packages"
    install_wheels(packages, python.name.removeprefix("python"))
    (PLACE / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    starter = PLACE / "bin" / "python"
    write_program(starter, f'#!/bin/sh\nexec qemu-aarch64 -L "{SYSROOT}" -0 "$0" "{python}" "$@"\n')
    for script in (packages / "bin").glob("hybrid-*"):
        rest = script.read_text().partition("\n")[2]
        write_program(starter.with_name(script.name), f"#!/bin/sh\n'''exec' \"{starter}\" \"$0\" \"$@\"\n' '''\n{rest}")
    (SYSROOT / "proc").mkdir(exist_ok=True)
    STAMP.write_text(wanted())


def unpack_debian() -> None:
    """Download the packages of another architecture with all that they depend on, and unpack them."""
    apt = PLACE / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()  # as if nothing were installed
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    (apt / "apt.conf").write_text("\n".join(["#clear APT::Architectures;", *lines]) + "\n")
    options = ("-qq", "--yes", "--no-install-recommends", "--download-only")
    for command in (("update", "-qq"), ("install", *options, *DEBIAN)):
        run("apt-get", *command, APT_CONFIG=os.fspath(apt / "apt.conf"))
    archives = sorted((apt / "cache" / "archives").glob("*.deb"))
    require(bool(archives), "apt sources of Debian, which have packages for arm64, found none of theirs")
    for archive in archives:
        run("dpkg", "--extract", archive, SYSROOT)
    shutil.rmtree(apt)


def install_wheels(folder: Path, version: str) -> None:
    """Have this machine's pip unpack the runtime's wheels for ARM, and the source as an editable package."""
    platforms = [f"--platform=manylinux_2_{number}_aarch64" for number in GLIBCS]
    wheels = (*platforms, "--python-version", version, "--only-binary=:all:", "--target", folder)
    run(sys.executable, "-m", "pip", "install", "--quiet", *wheels, "-c", "constraints.txt", "-e", *PACKAGES)


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(*command: str | Path, **environment: str) -> None:
    """Run a command to its end; one that fails has said why."""
    arguments = [os.fspath(item) for item in command]
    if subprocess.run(arguments, cwd=ROOT, env=os.environ | environment, check=False).returncode:
        fail(f"{' '.join(arguments[:3])} failed, see above")


if __name__ == "__main__":
    main()
