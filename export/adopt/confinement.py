"""Confines the process that calls it: no network, no file is written, no program started; memory and time end.

It is for a process that reads a file which nobody vouches for. What is refused is refused by the kernel (seccomp), in
every thread, and can't be undone. Reading files stays possible: libraries need it.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

from ...runtime.errors import ModelFileError

MAX_MEMORY = 2**33  # bytes: freezing an Xception takes 2 GB
MAX_CPU_SECONDS = 600
WRITING = 0x1 | 0x2 | 0x40 | 0x200  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, the same numbers on both machines
THREAD = 0x10000  # CLONE_THREAD: a clone without it is a process
NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2  # prctl
ALLOW, KILL, DENY, ABSENT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026  # with errno EPERM, ENOSYS
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF
NUMBER, MACHINE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
FOREIGN_NUMBERS = 0x40000000  # x32's, another name for the same calls

# execve, ptrace, sockets, kill, changes of names, modes, owners, sizes, times and attributes, mounts, modules, io_uring
# and the like, by their numbers; then those that are judged by an argument
DENIED = {
    "x86_64": (
        *(59, 322, 57, 58, 101, 310, 311, 41, 53, 42, 49, 44, 46, 307, 62, 200, 234, 424, 434, 129, 297),
        *(85, 82, 264, 316, 87, 263, 83, 258, 84, 86, 265, 88, 266, 90, 91, 268, 452, 92, 93, 94, 260, 76, 77, 285),
        *(133, 259, 165, 166, 188, 189, 190, 197, 198, 199, 132, 235, 261, 280, 304, 240, 68, 64, 29),
        *(425, 426, 427, 321, 298, 323, 308, 272, 161, 155, 250, 248, 249, 175, 313, 246, 320, 135, 169, 428, 429, 442),
        *(463, 466, 469),
    ),
    "aarch64": (
        *(221, 281, 117, 270, 271, 198, 199, 203, 200, 206, 211, 269, 129, 130, 131, 424, 434, 138, 240),
        *(38, 276, 35, 34, 37, 36, 52, 53, 452, 54, 55, 45, 46, 47, 33, 40, 39, 5, 6, 7, 14, 15, 16, 88, 265, 180),
        *(186, 190, 194, 425, 426, 427, 280, 241, 282, 268, 97, 51, 41, 219, 217, 218, 105, 273, 104, 294, 92, 142),
        *(428, 429, 442, 463, 466, 469),
    ),
}
OPEN = {"x86_64": ((257, 2), (2, 1)), "aarch64": ((56, 2),)}  # openat and open, and which argument has the flags
UNREADABLE = {"x86_64": (435, 437), "aarch64": (435, 437)}  # clone3 and openat2 hide their flags in memory
CLONE = {"x86_64": 56, "aarch64": 220}
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class _Program(ctypes.Structure):
    """Linux's ``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine() -> None:
    """Confine this process and all its threads to come, for good.

    Raises:
        ModelFileError: this system can't; the file must not be read then.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in AUDIT:
        raise ModelFileError(f"a SavedModel is read in a confined process, which {sys.platform} on {machine} lacks")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit, most in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MAX_MEMORY),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (bound, bound))
    code = _filter(machine)
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise ModelFileError("a SavedModel is read in a confined process, and this system has no seccomp for one")
    _prove()


def _prove() -> None:
    """Try what must not be possible."""
    for attempt in (lambda: Path("/dev/null").write_text(""), socket.socket):
        try:
            attempt()
        except OSError:
            continue
        raise ModelFileError("a SavedModel is read in a confined process, and this system does not confine it")


def _filter(machine: str) -> bytes:
    """Return the BPF program that judges each system call."""
    steps = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, AUDIT[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    steps += [(AT_LEAST, 0, 1, FOREIGN_NUMBERS), (RETURN, 0, 0, KILL)]
    for number in DENIED[machine]:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, DENY)]
    for number in UNREADABLE[machine]:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ABSENT)]
    for number, argument in OPEN[machine]:
        steps += [(EQUAL, 0, 4, number), (LOAD, 0, 0, ARGUMENTS + 8 * argument), (ANY_BIT, 0, 1, WRITING)]
        steps += [(RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)]
    steps += [(EQUAL, 0, 3, CLONE[machine]), (LOAD, 0, 0, ARGUMENTS), (ANY_BIT, 1, 0, THREAD), (RETURN, 0, 0, DENY)]
    steps += [(RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
