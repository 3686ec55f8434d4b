"""A trained network as a file that other programs run."""

from isospike.export.formats import FORMATS, export
from isospike.export.from_nir import from_nir
from isospike.export.nir import export_nir
from isospike.export.onnx import export_onnx
from isospike.export.torch_program import export_program, save_package, save_program

__all__ = [
    "FORMATS",
    "export",
    "export_nir",
    "export_onnx",
    "export_program",
    "from_nir",
    "save_package",
    "save_program",
]
