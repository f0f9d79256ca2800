"""Makes Parquet of rows and reads what a Parquet file says of itself; this is the only importer of pyarrow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ScoreError, UsageError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise UsageError(
        f"--format parquet: expected pyarrow, found none that can be imported ({error}): "
        "pip install 'hybrid-edge[scale]', or take --format jsonl"
    ) from error

RECORD = b"hybrid_edge"  # the key of a part's record in the file's metadata
COLUMNS = pa.schema(
    {
        "image": pa.string(),
        "answer": pa.string(),
        "label": pa.string(),
        "probability": pa.float32(),
        "top": pa.list_(pa.struct({"label": pa.string(), "probability": pa.float32()})),
        "error": pa.string(),
    }
)


def encode_rows(rows: Sequence[dict[str, Any]], record: str) -> bytes:
    """Return the bytes of a Parquet file (Zstandard) of rows, with a part's record in its metadata.

    A key that a row lacks is null in it.
    """
    table = pa.Table.from_pylist(list(rows), COLUMNS.with_metadata({RECORD: record.encode()}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_record(path: Path) -> str:
    """Read a part's record from a Parquet file's footer; ScoreError where the file is damaged or holds none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return str(metadata[RECORD].decode())
    except (pa.ArrowException, KeyError, UnicodeDecodeError, OSError) as error:
        raise ScoreError(f"{path}: expected a part file of hybrid-score, found: {error}; remove it") from None
