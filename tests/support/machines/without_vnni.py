"""Run a command with ONNX Runtime as on a CPU without AVX-512, VNNI and AMX: with its kernels for AVX2, at full speed.

    python tests/support/machines/without_vnni.py pytest tests/export

ONNX Runtime chooses its kernels by the instruction cpuid. In a copy of the package every one of them is a breakpoint
instead, whose handler, in a small library that is loaded first, gives the CPU's answer without these features. What an
emulator (QEMU) shows in its own time this shows in the machine's: whole rooms of tests, and what benchmarks measure.
Linux on x86-64, with a C compiler and objdump.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "build" / "without_vnni"
CPUID, BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"  # int3; nop
LARGE = 10**6  # bytes; the package's other libraries don't look at the CPU
# bits of cpuid's leaf 7 as Intel's manual lists them: AVX-512's parts, VNNI, AMX, and those of AVX10 and AVX-VNNI
HANDLER = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <ucontext.h>

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(part));
    if (leaf == 7 && part == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    }
    if (leaf == 7 && part == 1) {
        a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);
        d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19);
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGTRAP, &action, 0);
}
"""


def main(command: list[str]) -> None:
    """Make the copy where there is none of this version, and become the command."""
    package = Path(str(importlib.util.find_spec("onnxruntime").origin)).parent  # type: ignore[union-attr]
    version = re.search(r"__version__ = [\"'](.+?)[\"']", (package / "__init__.py").read_text())
    folder = FOLDER / (version.group(1) if version else "unknown")
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(package, partial / "onnxruntime")
        for library in (partial / "onnxruntime" / "capi").glob("*.so*"):
            if library.stat().st_size > LARGE:
                replace_cpuid(library)
        source = partial / "handler.c"
        source.write_text(HANDLER)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", partial / "handler.so", source], check=True)
        partial.rename(folder)
    for variable, first in (("LD_PRELOAD", folder / "handler.so"), ("PYTHONPATH", folder)):
        os.environ[variable] = os.pathsep.join(filter(None, (str(first), os.environ.get(variable))))
    os.execvp(command[0], command)  # noqa: S606  # it is the user's own command


def replace_cpuid(library: Path) -> None:
    """Put a breakpoint in the place of every cpuid."""
    content = bytearray(library.read_bytes())
    for place in places(library):
        if content[place : place + 2] != CPUID:
            raise SystemExit(f"{library}: expected cpuid at {place:#x}, found {content[place : place + 2].hex()}")
        content[place : place + 2] = BREAKPOINT
    library.write_bytes(content)


def places(library: Path) -> Iterator[int]:
    """Where in the file each cpuid is, by what objdump disassembles and where readelf says that is loaded."""
    listed = subprocess.run(["readelf", "-lW", library], check=True, capture_output=True, text=True).stdout
    parts = [
        tuple(int(item, 16) for item in found) for found in re.findall(r"LOAD\s+0x(\w+) 0x(\w+) 0x\w+ 0x(\w+)", listed)
    ]
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], check=True, capture_output=True, text=True)
    for address in re.findall(r"^\s*(\w+):\s+cpuid", code.stdout, re.MULTILINE):
        at = int(address, 16)
        yield next(offset + at - start for offset, start, size in parts if start <= at < start + size)


if __name__ == "__main__":
    main(sys.argv[1:])
