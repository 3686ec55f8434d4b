"""Pictures derived from rows, as self-contained SVG."""

from isospike.drawing.signals import carried
from isospike.drawing.unit import draw_unit

__all__ = ["carried", "draw_unit"]
