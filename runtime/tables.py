"""Tables on stdout are never cut: one that is too wide for the terminal is printed in parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, pairwise

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from . import console

__all__ = ["NONE", "TextTable"]

NONE = "–"  # stands in a cell that has no figure
EDGES = 2  # cells that the box's edges take
GAPS = (2, 1)  # cells between columns: the first gap at which the table fits is taken


class TextTable:
    """A table of text rows under heads, each column as wide as its widest cell.

    On a terminal that is too narrow the columns are moved closer, then the blocks are printed below each other, the
    keys repeated before each; a part that is still too wide is wrapped by the terminal. Elsewhere, in a file or a
    pipe, a row is a line however long it is.

    Args:
        title: the line above the table.
        keys: heads of the columns that say which row it is; a head may have several lines.
        blocks: heads of the other columns, in groups that are rather printed apart than torn.
        left: heads of columns that begin on the left, as text does; the first does without being named.
        style: the title's style.
    """

    def __init__(
        self,
        title: str,
        keys: Sequence[str],
        *blocks: Sequence[str],
        left: Collection[str] = (),
        style: str = "table.title",
    ) -> None:
        self.caption = ""
        self._title = Text(title, style)
        self._heads = [Text(head) for head in (*keys, *(head for block in blocks for head in block))]
        self._keys = len(keys)
        self._left = left
        ends = accumulate((len(block) for block in blocks), initial=len(keys))
        self._blocks = [range(start, end) for start, end in pairwise(ends) if end > start]
        self._rows: list[list[Text]] = []

    def add(self, *cells: str | Text) -> None:
        """Add a row, with a cell for each head; another number of cells is a ValueError."""
        if len(cells) != len(self._heads):
            raise ValueError(f"expected {len(self._heads)} cells, one for each head, found {len(cells)}")
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def show(self) -> None:
        """Print the table on stdout, with the caption below."""
        screen = console.stdout
        screen.print(self._title, soft_wrap=False)
        everything = range(self._keys, len(self._heads))
        for part in [everything] if self._fits(everything) else self._parts():
            screen.print(self._drawn(part), soft_wrap=True)
        if self.caption:
            screen.print(Text(self.caption, "table.caption"), soft_wrap=False)

    def _parts(self) -> Iterator[range]:
        """Yield neighbouring blocks together as far as they fit, and a block that is too wide in pieces that fit."""
        pieces = [piece for block in self._blocks for piece in self._pieces(block)]
        part = pieces[0]
        for piece in pieces[1:]:
            together = range(part.start, piece.stop)
            if not self._fits(together):
                yield part
                together = piece
            part = together
        yield part

    def _pieces(self, block: range) -> Iterator[range]:
        start = block.start
        for end in block:
            if end > start and not self._fits(range(start, end + 1)):
                yield range(start, end)
                start = end
        yield range(start, block.stop)

    def _fits(self, part: range, gap: int = GAPS[-1]) -> bool:
        return not console.stdout.is_terminal or self._width(part, gap) <= console.stdout.width

    def _columns(self, part: range) -> list[int]:
        return [*range(self._keys), *part]

    def _width(self, part: range, gap: int) -> int:
        columns = self._columns(part)
        cells = (max(_cells(row[column]) for row in (self._heads, *self._rows)) for column in columns)
        return EDGES + sum(cells) + gap * (len(columns) - 1)

    def _drawn(self, part: range) -> Table:
        gap = next((gap for gap in GAPS if self._fits(part, gap)), GAPS[-1])
        # the box itself has one cell between columns
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), width=self._width(part, gap))
        columns = self._columns(part)
        for column in columns:
            head = self._heads[column]
            left = column == 0 or head.plain in self._left
            table.add_column(head, justify="left" if left else "right", vertical="bottom", no_wrap=True)
        for row in self._rows:
            table.add_row(*(row[column] for column in columns))
        return table


def _cells(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))
