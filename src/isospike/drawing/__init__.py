"""Pictures derived from rows, and of events, as self-contained SVG."""

from isospike.drawing.cloud import draw_cloud, draw_frames
from isospike.drawing.signals import carried
from isospike.drawing.unit import draw_unit

__all__ = ["carried", "draw_cloud", "draw_frames", "draw_unit"]
