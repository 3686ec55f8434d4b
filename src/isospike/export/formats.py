"""Formats by name, for the command line and whoever writes several."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from isospike.errors import ConfigError
from isospike.export.nir import export_nir
from isospike.export.onnx import FORMS as ONNX_FORMS
from isospike.export.onnx import PRECISIONS, export_onnx
from isospike.export.torch_program import FORMS as PROGRAM_FORMS
from isospike.export.torch_program import save_package, save_program
from isospike.registry import Registry


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        write: ``write(model, path, **options)``; returns what the file loses, where it may lose something.
        forms: That it has, the first for models of images; none: there is nothing to choose.
        precisions: That it has, the first where none is named; none: there is nothing to choose.
        can_lose: Whether it takes ``lossy``.
        has_operators: Whether it takes ``operators``.
    """

    write: Callable[..., Any]
    forms: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    can_lose: bool = False
    has_operators: bool = False


FORMATS: Registry[Format] = Registry("format")
FORMATS.register("onnx", Format(export_onnx, ONNX_FORMS, PRECISIONS, has_operators=True))
FORMATS.register("nir", Format(export_nir, can_lose=True, has_operators=True))
FORMATS.register("torch", Format(save_program, PROGRAM_FORMS))
FORMATS.register("aoti", Format(save_package, PROGRAM_FORMS))


def export(
    model: nn.Module,
    path: Path | str,
    format: str,
    *,
    form: str | None = None,
    precision: str | None = None,
    lossy: bool = False,
    operators: Collection[str] | None = None,
) -> tuple[str | None, list[str]]:
    """Write ``model`` in a format of the registry.

    Args:
        model: See ``export_onnx``, ``export_nir`` and ``export_program``.
        path: The file.
        format: Its name in ``FORMATS``.
        form: Of those of the format. None: "clip" for a model that was trained on recordings of events, else the first.
        precision: Of those of the format. None: the first.
        lossy: Let the file differ from the model where the format cannot say what the model does.
        operators: Those that the device has, by the names of the format. None: all of them.

    Returns:
        The form that was taken, and a sentence for each loss.

    Raises:
        ConfigError: what was asked for is none of the format's: a form, a precision, losses, operators; or as the
            function of the format.
    """
    row = FORMATS[format]
    if lossy and not row.can_lose:
        raise ConfigError(f"format '{format}' loses nothing: leave lossy out")
    if operators is not None and not row.has_operators:
        raise ConfigError(f"format '{format}' has no operators to choose from: leave operators out")
    for what, value, known in (("form", form, row.forms), ("precision", precision, row.precisions)):
        if value is not None and not known:
            raise ConfigError(f"format '{format}' has no {what}s: leave {what}='{value}' out")
    options: dict[str, Any] = {"lossy": lossy} if row.can_lose else {}
    options |= {} if precision is None else {"precision": precision}
    options |= {} if operators is None else {"operators": operators}
    if row.forms:
        on_recordings = getattr(model, "inputs", None) is not None and model.inputs.T is not None
        form = form or ("clip" if on_recordings else row.forms[0])
        options["form"] = form
    return form, row.write(model, path, **options) or []
