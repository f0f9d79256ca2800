"""Text from elsewhere is shown through ``printable``, which bounds and escapes it; so is what C libraries write.

libpng, ONNX Runtime and their kind write to file descriptor 2 what stands in a file, as it stands there and as often as
a camera gives it. ``filter_libraries`` puts this module, run as a program, between that descriptor and the terminal: a
process of its own, so that what a crash says last is shown as well, and nobody who holds the interpreter waits for it.
"""

import contextlib
import os
import re
import select
import signal
import sys
import time
from collections import deque

MAX_SHOWN = 500  # characters of one text from elsewhere: a name, a label, a library's line
REPEAT_EVERY = 60.0  # seconds for which a library's line that differs in its numbers alone is not shown again
BURST = 40  # lines of libraries that are shown at once; then one a minute
LAST_LINES, LAST_SECONDS = 60, 2.0  # of what was left out, shown where the process crashed: a reason may be among it
LINE_WAIT = 0.5  # seconds after which a line without an end is shown
NUMBER = re.compile(rb"0x[0-9a-fA-F]+|[0-9a-fA-F]*\d[0-9a-fA-F]*h?")
ENDED = b"\0ended\0\n"  # says that the process ends by itself; no text of a library has a zero byte
_stderr = {"true": -1, "filtered": False}  # the true stderr's descriptor, -1 before ``keep_stderr``; what 2 is now


def printable(text: str, most: int = MAX_SHOWN) -> str:
    """Escape what is not visible, as it could steer the terminal; of over ``most`` characters leave the middle out."""
    text = bounded(text, most)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def bounded(text: str, most: int) -> str:
    """Return a text, of which the middle is left out where it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} … ({len(text) - most:,} characters) … {text[-(most - most * 2 // 3) :]}"


def keep_stderr() -> int:
    """Return a new descriptor of stderr for this process's own lines; ``filter_libraries`` works from now on."""
    if _stderr["true"] < 0:
        with contextlib.suppress(OSError):  # no more files may be opened
            _stderr["true"] = os.dup(2)
    return _stderr["true"] if _stderr["true"] >= 0 else 2


def filter_libraries() -> None:
    """Let what libraries write to descriptor 2 go through the filter from now on; call it before one is imported.

    Nothing happens in a process that is not a command's (``keep_stderr`` was not called), the second time, or where no
    process can be started.
    """
    if _stderr["true"] < 0 or _stderr["filtered"] or not sys.executable:
        return
    import subprocess  # noqa: PLC0415  # the filter itself needs it not, and starts in half of the time

    with contextlib.suppress(OSError):  # no more files or processes: libraries write as they did
        reading, writing = os.pipe()
        try:
            subprocess.Popen(  # noqa: S603  # this file
                [sys.executable, "-I", "-S", __file__],
                stdin=reading,
                stdout=_stderr["true"],
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,  # no Ctrl-C ends it before its last line
            ).returncode = 0  # nobody waits for it: it ends with the last process that holds the descriptor
            os.set_blocking(writing, False)  # a library's line is lost where nobody reads, and nobody waits
            os.dup2(writing, 2)
            _stderr["filtered"] = True
        finally:
            os.close(reading)
            os.close(writing)


def ends_by_itself() -> None:
    """Tell the filter that this process does not crash, so that what was left out stays so."""
    if _stderr["filtered"]:
        with contextlib.suppress(OSError):
            select.select([], [2], [], LINE_WAIT)
            os.write(2, b"\n" + ENDED)


class LibraryLines:
    """Chooses which of the lines that libraries write are shown: each kind once a minute, few in all."""

    def __init__(self) -> None:
        self._shown: dict[bytes, float] = {}  # when a line of a kind was shown last
        self._left_out: deque[tuple[float, str]] = deque(maxlen=LAST_LINES)
        self._budget, self._since = float(BURST), time.monotonic()
        self._count = 0  # of lines that were left out since one was shown

    def take(self, line: bytes) -> str | None:
        """Return a line as it is to be shown, None where it is left out."""
        now, text = time.monotonic(), printable(line.decode(errors="replace").expandtabs(4))
        self._budget = min(self._budget + (now - self._since) / REPEAT_EVERY, BURST)
        self._since = now
        kind = NUMBER.sub(b"", line)[:200]
        if self._budget < 1 or now - self._shown.get(kind, -REPEAT_EVERY) < REPEAT_EVERY:
            self._left_out.append((now, text))
            self._count += 1
            return None
        if len(self._shown) > 10 * BURST:
            self._shown.clear()
        self._shown[kind] = now
        self._budget -= 1
        more, self._count = f" ({self._count:,} lines before it left out)" if self._count else "", 0
        return text + more

    def last(self) -> list[str]:
        """Return what was left out in the last two seconds, in order: where the process crashed, it may say why."""
        return [text for then, text in self._left_out if time.monotonic() - then < LAST_SECONDS]


def main() -> None:
    """Filter stdin's lines to stdout, until the last process that writes them has ended."""
    for item in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(item, signal.SIG_IGN)
    lines, pending, ended = LibraryLines(), b"", False
    while True:
        came = b"\n"
        if not pending or select.select([0], [], [], LINE_WAIT)[0]:
            came = os.read(0, 2**16)
        *whole, pending = re.split(rb"[\r\n]+", pending + (came or b"\n"))
        pending = pending[: 8 * MAX_SHOWN]  # the rest of a line without an end is not waited for
        for line in filter(None, whole):
            if line + b"\n" == ENDED:
                ended = True
            elif (text := lines.take(line)) is not None:
                _write(text)
        if not came:
            break
    for text in () if ended else lines.last():
        _write(text)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(1, f"{text}\n".encode(errors="backslashreplace"))


if __name__ == "__main__":
    main()
