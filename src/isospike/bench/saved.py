"""Results in files, and as Markdown for documents."""

from pathlib import Path
from typing import Any

from isospike.bench.cases import Case
from isospike.bench.growth import covers, growth_markdown
from isospike.bench.table import header_lines, markdown
from isospike.errors import DataError
from isospike.run_folder import MISREAD, misread, read_json


def read_result(file: Path) -> dict[str, Any]:
    """Read a result that ``isospike bench`` saved.

    Raises:
        DataError: there is no such file, or it is something else.
        ConfigError: it is damaged.
    """
    if not file.is_file():
        raise DataError(f"no bench can be read from {file}: there is no such file")
    result = read_json(file)
    if not isinstance(result, dict) or not {"header", "rows"} <= result.keys():
        raise DataError(f"{file} is not a result of isospike bench")
    return result


def render(result: dict[str, Any]) -> str:
    """Render a result as Markdown; that of the growth suite has tables of its own."""
    cases = [Case(**{key: row[key] for key in Case.__dataclass_fields__}) for row in result["rows"]]
    rows = growth_markdown(result) if covers(cases) else markdown(result)
    return "\n\n".join(f"{line}." for line in header_lines(result)) + "\n\n" + rows


def render_file(file: Path) -> str:
    """Render a saved result as Markdown.

    Raises:
        DataError: there is no such file, it is something else, or it lacks what a table needs.
        ConfigError: it is damaged.
    """
    result = read_result(file)
    try:
        return render(result)
    except MISREAD as error:
        raise DataError(misread([file], error)) from error
