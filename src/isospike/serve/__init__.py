"""A trained network behind HTTP: images in batches, events and frames as streams."""

from isospike.serve.limits import Limits

__all__ = ["Limits"]
