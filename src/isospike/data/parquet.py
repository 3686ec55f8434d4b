"""Encoded images and labels out of Hugging Face's parquet files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isospike.errors import DataError
from isospike.optional import import_optional
from isospike.text import brief

IMAGE_COLUMNS = ("img", "image")
MOST_ROWS = 1_000_000
MOST_BYTES = 1_000_000_000  # of encoded images in one file, which a small file can claim by repeating one of them
ROWS_AT_A_TIME = 256


def read_parquet(path: Path, label_columns: Sequence[str]) -> tuple[list[bytes], list[Any]]:
    """Read encoded images and labels of a file.

    Args:
        path: The file.
        label_columns: Names that the column of labels may have.

    Raises:
        DataError: damaged, other columns, columns of another kind, or larger than ``MOST_ROWS`` and ``MOST_BYTES``.
        MissingExtra: pyarrow is not installed.
    """
    pyarrow = import_optional("pyarrow", extra="data", purpose=f"reading {path}")
    parquet = import_optional("pyarrow.parquet", extra="data", purpose=f"reading {path}")
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            image, label = _columns(file.schema_arrow, label_columns, path)
            if file.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{path} claims {file.metadata.num_rows:,} rows, and at most {MOST_ROWS:,} are read")
            return _rows(file.iter_batches(ROWS_AT_A_TIME, columns=[image, label]), image, label, path)
    except (pyarrow.ArrowException, OSError, UnicodeError, OverflowError, LookupError) as error:
        reason = brief(str(error) or type(error).__name__, 200)
        raise DataError(f"{path} cannot be read as parquet ({reason}): is the file whole?") from error


def _columns(schema: Any, label_columns: Sequence[str], path: Path) -> tuple[str, str]:
    """Return the columns of images and of labels."""
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in label_columns if name in schema.names), None)
    if image is None or label is None:
        raise DataError(
            f"{path} must have a column 'img' or 'image' and one of {', '.join(label_columns)}, "
            f"it has {brief(', '.join(schema.names), 200)}"
        )
    for name in (image, label):
        if schema.names.count(name) > 1:
            raise DataError(f"{path} has {schema.names.count(name)} columns called '{name}'")
    types = import_optional("pyarrow.types", extra="data", purpose=f"reading {path}")
    kind = schema.field(image).type
    inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not types.is_binary(inner) and not types.is_large_binary(inner):
        raise DataError(f"{path}: column '{image}' must hold encoded images (bytes), not {brief(str(kind))}")
    if not types.is_integer(schema.field(label).type):
        raise DataError(f"{path}: column '{label}' must hold integers, not {brief(str(schema.field(label).type))}")
    return image, label


def _rows(batches: Any, image: str, label: str, path: Path) -> tuple[list[bytes], list[Any]]:
    images: list[bytes] = []
    labels: list[Any] = []
    read = 0
    for batch in batches:
        cells = batch.column(image).to_pylist()
        encoded = [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
        if None in encoded:
            raise DataError(f"{path} row {len(images) + encoded.index(None)} holds no image")
        read += sum(map(len, encoded))
        if read > MOST_BYTES:
            raise DataError(f"{path} holds more than {MOST_BYTES:,} bytes of images, which is the most that is read")
        images += encoded
        labels += batch.column(label).to_pylist()
    return images, labels
