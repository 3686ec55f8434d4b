"""Results in files, and as Markdown for documents."""

import json
from pathlib import Path
from typing import Any

from isospike.bench.cells import Cell
from isospike.bench.growth import covers, growth_markdown
from isospike.bench.table import header_lines, markdown
from isospike.errors import DataError


def read_result(file: Path) -> dict[str, Any]:
    """A result that ``isospike bench`` saved.

    Raises:
        DataError: there is no such file, or it is something else.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no bench can be read from {file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(result, dict) or not {"header", "rows"} <= result.keys():
        raise DataError(f"{file} is not a result of isospike bench")
    return result


def render(result: dict[str, Any]) -> str:
    """A result as Markdown; that of the growth suite has tables of its own."""
    cells = [Cell(**{key: row[key] for key in Cell.__dataclass_fields__}) for row in result["rows"]]
    rows = growth_markdown(result) if covers(cells) else markdown(result)
    return "\n\n".join(f"{line}." for line in header_lines(result)) + "\n\n" + rows
