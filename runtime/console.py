"""The commands share standard streams, consoles, bars, and the one place where an error becomes an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from .ending import end_at_second_signal
from .errors import HybridEdgeError
from .foreign_text import bounded, ends_by_itself, keep_stderr, printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


INTERRUPTED = 130
ABSENT = "–"  # stands in a cell that has no figure
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_THREAD = "can't start new thread"  # is what Python says with a RuntimeError
REMEDY = "mend that, or name another place"
REMEDIES = {errno.EMFILE: "raise the limit of open files (ulimit -n)"}
ESCAPED = "backslashreplace"  # a character that a stream can't encode is escaped, and does not end a run

MAX_MESSAGE = 2000  # characters of one message, in which several texts from elsewhere may stand


class Screen(Console):
    """A console on which nothing that is printed steers the terminal: only what rich itself makes of styles does."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as rich does, with control characters in texts escaped; lines and tabs stay."""
        for segment in super().render(renderable, options):
            harmless = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if harmless else segment._replace(text=_lines_of(segment.text))


def _lines_of(text: str) -> str:
    """Escape control characters in a text, however long, of several lines."""
    return "\n".join(printable(line.expandtabs(8), len(line) * 8) for line in text.split("\n"))


stdout = Screen(soft_wrap=not (sys.stdout and sys.stdout.isatty()), highlight=False)
status = Screen(stderr=True, highlight=False)
_at_once = threading.Event()


def make_app(command: Callable[..., None], kind: type[TyperCommand] = TyperCommand) -> typer.Typer:
    """Make a Typer application of one command, set up as all of ours are; ``kind`` parses its arguments."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command(cls=kind)(command)
    return app


def leave_at_once() -> None:
    """Let ``main`` leave by ``os._exit``: a thread hangs in C code, which Python's end would tear down under it."""
    _at_once.set()


def main(app: typer.Typer) -> NoReturn:
    """Run an application and leave the process with the documented exit code.

    The codes are 0 done, 1 failed, 2 wrong usage, 3 a gate refused the result, 130 interrupted. A second signal ends
    the process whatever it is doing.
    """
    if _open_streams():  # else it is not the process's only task
        end_at_second_signal()
    try:
        _main(app)
    except BaseException as leaving:
        ends_by_itself()
        if _at_once.is_set():
            _leave(leaving)
        raise


class _Stderr(io.FileIO):
    """A stderr that drops what it can't write (full disk, reader gone): no line on it is worth ending a run."""

    def write(self, data: ReadableBuffer) -> int:
        """Write as much as is taken now, or drop all of it; either counts as written."""
        with contextlib.suppress(OSError):
            written: int | None = super().write(data)
            if written is not None:  # None means that the write would block on a non-blocking stderr
                return written
        return memoryview(data).nbytes


def _open_streams() -> bool:
    """Make sure that standard streams are there, and that neither a character nor a fault of stderr ends the run.

    Return whether stderr is this process's own. Then our lines get a descriptor of their own, as what libraries write
    to 2 is filtered. A stream that was closed (``>&-``) becomes /dev/null under its own number: else the next file
    opened would get that number, and with it what others print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors=ESCAPED)
    own = sys.stderr is sys.__stderr__ or sys.__stderr__ is None  # else somebody replaced it and sees to it
    if own:
        raw = _Stderr(keep_stderr(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=sys.stderr.encoding, errors=ESCAPED, line_buffering=True
        )
        sys.excepthook = _show_traceback
        threading.excepthook = lambda fault: _show_traceback(fault.exc_type, fault.exc_value, fault.exc_traceback)
    return own


def _leave(leaving: BaseException) -> NoReturn:
    """End the process as Python would with this exception, but without tearing anything down."""
    if not isinstance(leaving, SystemExit):
        _show_traceback(type(leaving), leaving, leaving.__traceback__)
    with contextlib.suppress(OSError, ValueError):  # the stream's reader is gone
        sys.stdout.flush()
        sys.stderr.flush()
    code = leaving.code if isinstance(leaving, SystemExit) else 1
    os._exit(code if isinstance(code, int) else int(code is not None))


def _main(app: typer.Typer) -> NoReturn:
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:  # older versions of Typer raise Abort instead
            raise KeyboardInterrupt
    except HybridEdgeError as error:
        _print_error(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status.print("interrupted", style="yellow")
        code = INTERRUPTED
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        # `... | head` closed our stdout, and Typer or rich would leave with 1: not an error
        _silence_stdout()
        code = 0
    except (OSError, MemoryError, RuntimeError) as error:
        code = _refused_exit_code(error)
    except Exception as error:
        code = _click_exit_code(error)
    sys.exit(code)


def _show_traceback(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print a fault of ours as Python does, with what comes from elsewhere in it escaped."""
    lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
    sys.stderr.write("".join(f"{printable(line, MAX_MESSAGE)}\n" for line in lines))


def _print_error(text: str) -> None:
    status.print("error:", style="bold red", end=" ")
    status.print(bounded(text, MAX_MESSAGE), markup=False, soft_wrap=True)


def _refused_exit_code(error: OSError | MemoryError | RuntimeError) -> int:
    """Say what the system refused, and return 1; an error that is not the system's own is raised again."""
    if isinstance(error, OSError) and error.errno is not None:
        where = f" for {error.filename}" if error.filename else ""
        if error.errno in FULL:
            found = f"expected room on the disk{where}, found none ({error.strerror}); free some, or write elsewhere"
        else:
            found = f"the system refused this{where}: {error.strerror}; {REMEDIES.get(error.errno, REMEDY)}"
    elif isinstance(error, MemoryError) or str(error) == NO_THREAD:
        found = f"expected more memory or threads than this process may have ({error}); raise its limits"
    else:
        raise error
    _print_error(found)
    try:
        sys.stdout.flush()
    except OSError:  # it is stdout that takes no more
        _silence_stdout()
    return 1


def _silence_stdout() -> None:
    """Point stdout at /dev/null: what is left to write has nowhere to go, and Python would say so again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _click_exit_code(error: Exception) -> int:
    """Show Typer's own usage error and return its code; any other error is our fault and is raised again."""
    show: Any = getattr(error, "show", None)
    exit_code = getattr(error, "exit_code", None)
    if show is None or not isinstance(exit_code, int):
        raise error
    for name, value in vars(error).items():  # a file's name, of a glob that the shell expanded, may be among them
        if isinstance(value, str):
            setattr(error, name, _lines_of(bounded(value, MAX_MESSAGE)))
    show()
    return exit_code


def progress(*extra: ProgressColumn, unit: str = "", transient: bool = False) -> Progress:
    """Make a progress bar on stderr: description, bar, count of ``unit``, extra columns, elapsed and remaining time.

    A ``transient`` bar leaves nothing behind when it ends, and is not drawn where stderr is no terminal, in which rich
    would leave an empty line.
    """
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    if unit:
        columns.append(TextColumn(unit))
    columns += [*extra, TimeElapsedColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=status, transient=transient, disable=transient and not status.is_terminal)


def percent(probability: float) -> str:
    """Return a probability as people read it, such as ``99.9 %``; ``100.0 %`` stands for certainty alone."""
    shown = round(100 * probability, 1)
    if shown >= 100 and probability < 1:
        shown = 99.9
    return f"{shown:.1f} %"


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """Show a spinner on stderr, if that is a terminal, for the time of the block; yield a call that ends it early."""
    if not status.is_terminal:
        yield lambda: None
        return
    with status.status(f"{what} …") as spinner:
        yield spinner.stop


def say(text: str, style: str = "dim") -> None:
    """Print one line on stderr; control characters in it are escaped, and brackets are no markup."""
    status.print(printable(text, MAX_MESSAGE), style=style, markup=False, soft_wrap=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, as one line."""
    typer.echo(json.dumps(content))


def make_table(
    title: str,
    heads: Iterable[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    text: Collection[str] = (),
    caption: str = "",
) -> Table:
    """Make a table for ``show_table``; each column has a head, perhaps of several lines, and the first is for names.

    Columns whose head is in ``text`` begin on the left as names do; figures end on the right. ``caption`` stands below.
    """
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title=Text(title, "table.title"), title_justify="left"
    )
    table.caption = Text(caption, "table.caption") if caption else None
    heads = list(heads)
    lines = max(head.count("\n") for head in heads)
    for number, head in enumerate(heads):
        lowered = Text("\n" * (lines - head.count("\n")) + head)  # heads stand on the line, cells at their row's top
        left = number == 0 or head in text
        table.add_column(lowered, justify="left" if left else "right", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def show_table(table: Table) -> None:
    """Print a table on stdout; brackets in it are no markup, and no figure is ever cut.

    On a terminal that is narrower than the table, names stand on lines of their own above the figures that are theirs,
    and lines are wrapped only where the figures alone are too wide; in a file or a pipe a row is one line.
    """
    unlimited, names = stdout.options.update(max_width=sys.maxsize, markup=False), list[str]()
    if stdout.is_terminal and Measurement.get(stdout, unlimited, table).maximum > stdout.width:
        names = [str(cell) for cell in table.columns.pop(0).cells]
    table.width = Measurement.get(stdout, unlimited, table).maximum
    caption, table.caption = table.caption, None  # rich would wrap it where the table ends
    with stdout.capture() as captured:
        stdout.print(table, markup=False, crop=False, soft_wrap=False)
    lines = captured.get().splitlines(keepends=True)
    above = [""] * (len(lines) - len(names) - 1) + names + [""]  # the last line is empty
    for line, name, last in zip(lines, above, ["", *above], strict=False):
        if name not in ("", last):
            stdout.print(f" {name}", markup=False, soft_wrap=True)
        stdout.file.write(line)
    if caption:
        stdout.print(caption)
