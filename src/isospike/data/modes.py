"""From any mode of Pillow to 8-bit grey or RGB; what has no right conversion is refused by its name."""

import numpy as np
from PIL import Image

from isospike.errors import DataError

COLOUR = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
TRANSPARENT = frozenset({"LA", "PA", "RGBA"})
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
GREY_16_BITS = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
# These formats hold 16 bits at most where older versions of Pillow open them with 32.
OPENED_WIDER = frozenset({"PNG", "PPM"})


def in_8_bits(image: Image.Image, name: str, channels: int) -> Image.Image:
    """Convert the image to RGB or (``channels`` 1) grey.

    What is transparent lies on white, as on a page. Of 16 bits, 65535 becomes 255, rounded to the nearest.

    Raises:
        DataError: the mode has no range that would say what is black and what is white; names it and ``name``.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode in GREY_16_BITS or (image.mode == "I" and image.format in OPENED_WIDER):
        return _from_16_bits(image).convert(mode)
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if image.mode not in COLOUR | TRANSPARENT:
        raise DataError(
            f"{name} is an image of Pillow's mode {image.mode}, which does not say what is black and what is white: "
            "save it with 8 or 16 bits per channel"
        )
    if image.mode == mode and not image.has_transparency_data:
        return image.copy()
    return _on_white(image).convert(mode)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Convert to grey of 8 bits; the one level that a PNG may call transparent is white."""
    levels = np.asarray(image).astype(np.int64)
    grey = (levels.clip(0, 65535) + 128) // 257
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB, with white behind whatever is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
