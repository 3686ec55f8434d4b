"""Every mode that Pillow opens is converted right or refused by its name, and photographs stand upright."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from isospike.data import Loader, load_dataset
from isospike.data.folder import FolderData
from isospike.data.images import UPRIGHT, read_image
from isospike.data.modes import in_8_bits
from isospike.errors import DataError

# One colour in every mode, and what it is in RGB; half-transparent black lies on white, so it is grey.
COLOURS = {
    "1": (1, (255, 255, 255)),
    "L": (77, (77, 77, 77)),
    "P": (3, (200, 100, 50)),
    "RGB": ((200, 100, 50), (200, 100, 50)),
    "RGBX": ((200, 100, 50, 9), (200, 100, 50)),
    "CMYK": ((55, 155, 205, 0), (200, 100, 50)),
    "YCbCr": ((124, 86, 182), (200, 100, 50)),
    "HSV": ((14, 191, 200), (200, 100, 50)),
    "LA": ((0, 127), (128, 128, 128)),
    "La": ((0, 127), (128, 128, 128)),
    "PA": ((3, 127), (228, 178, 153)),
    "RGBA": ((200, 100, 50, 127), (228, 178, 153)),
    "RGBa": ((100, 50, 25, 127), (228, 178, 153)),
    "I;16": (40 * 257 + 100, (40, 40, 40)),
    "I;16L": (40 * 257 + 100, (40, 40, 40)),
    "I;16B": (40 * 257 + 129, (41, 41, 41)),
}
PALETTE = [0] * 9 + [200, 100, 50]


def image_of(mode: str, colour) -> Image.Image:
    image = Image.new(mode, (3, 2), colour)
    if mode in ("P", "PA"):
        image.putpalette(PALETTE)
        if mode == "PA":  # putpalette turns it into P
            image = image.convert("PA")
            image.putalpha(127)
    return image


@pytest.mark.parametrize("mode", COLOURS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_is_the_same_in_every_mode(mode, channels):
    colour, rgb = COLOURS[mode]
    image = image_of(mode, colour)
    assert image.mode == mode
    found = in_8_bits(image, "x.png", channels)
    assert (found.mode, found.size) == ("RGB" if channels == 3 else "L", (3, 2))
    expected = np.array(rgb) if channels == 3 else np.array(rgb) @ [0.299, 0.587, 0.114]
    # HSV and YCbCr have fewer levels than RGB, and Pillow rounds where it multiplies by transparency.
    assert np.abs(np.asarray(found, np.float64) - expected).max() <= 2


def test_lab_is_colour():
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (3, 2), (200, 100, 50)), to_lab)
    assert lab.mode == "LAB"
    assert np.abs(np.asarray(in_8_bits(lab, "x.tif", 3), np.int64) - (200, 100, 50)).max() <= 3
    assert in_8_bits(lab, "x.tif", 1).mode == "L"


@pytest.mark.parametrize("mode", ["F", "I"])
def test_what_has_no_black_and_white_is_refused(mode):
    with pytest.raises(DataError, match=f"x.tif is an image of Pillow's mode {mode}, which does not say what is black"):
        in_8_bits(Image.new(mode, (3, 2), 7), "x.tif", 3)


def test_every_mode_that_pillow_has_is_known_here():
    """A mode that comes with a later Pillow is refused by name until somebody has looked at it."""
    from PIL import ImageMode

    known = {*COLOURS, "LAB", "F", "I", "I;16N"}
    for mode in set(Image.MODES) | {"La", "RGBa", "PA", "I;16L", "I;16B"}:
        assert ImageMode.getmode(mode).mode == mode
        assert mode in known, f"what is a {mode} image in 8 bits?"


def file_of(image: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("PPM", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_files_of_16_bits_keep_their_levels(kind, mode):
    """Every level of 8 bits and what lies between two of them, to the nearest."""
    levels = np.concatenate([np.arange(256) * 257, np.arange(255) * 257 + 128, np.arange(255) * 257 + 129])
    image = Image.fromarray(levels.astype(np.uint16)[None])
    if mode == "I;16B":
        image = Image.frombytes(mode, image.size, levels.astype(">u2").tobytes())
    found = np.asarray(read_image(file_of(image, kind), "x", channels=1))[0]
    assert found.tolist() == [*range(256), *range(255), *range(1, 256)]


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.new("L", (2, 1), 9), {"transparency": 9}),
        (Image.new("RGB", (2, 1), (9, 8, 7)), {"transparency": (9, 8, 7)}),
        (Image.new("P", (2, 1), 0), {"transparency": 0}),
        (Image.new("P", (2, 1), 0), {"transparency": b"\0"}),
        (Image.fromarray(np.full((1, 2), 900, np.uint16)), {"transparency": 900}),
    ],
    ids=["L", "RGB", "P", "P by bytes", "I;16"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_that_is_called_transparent_is_white(image, options, channels):
    found = read_image(file_of(image, **options), "x", channels)
    assert (np.asarray(found) == 255).all()


def test_without_transparency_nothing_changes():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8))
    for kept in (image, image.convert("RGBA"), image.convert("RGBX")):
        assert np.array_equal(np.asarray(in_8_bits(kept, "x", 3)), np.asarray(image))
    assert np.array_equal(np.asarray(in_8_bits(image, "x", 1)), np.asarray(image.convert("L")))


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_photographs_stand_upright(orientation, kind):
    """The stored image is the upright one, turned by the inverse of what EXIF asks for."""
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    inverse = {6: UPRIGHT[8], 8: UPRIGHT[6]}.get(orientation, UPRIGHT.get(orientation))
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(file_of(stored, kind, exif=exif), "x", channels=1)
    assert np.array_equal(np.asarray(found), np.asarray(upright))


def test_damaged_exif_turns_nothing():
    image = Image.new("RGB", (4, 2), "red")
    found = read_image(file_of(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff nonsense"), "x")
    assert found.size == (4, 2)


def test_a_file_that_would_run_another_program_is_no_image(tmp_path):
    """Pillow hands PostScript over to Ghostscript, whatever the name of the file."""
    path = tmp_path / "x.png"
    path.write_bytes(file_of(Image.new("RGB", (4, 4)), "EPS"))
    assert Image.open(path).format == "EPS"
    with pytest.raises(DataError, match=r"x.png cannot be read as an image \(cannot identify"):
        read_image(path, str(path))


def write_folders(root):
    for split in ("train", "val"):
        for name in ("ant", "cat"):
            (root / split / name).mkdir(parents=True)
            for n in range(2):
                Image.fromarray(np.full((30, 30), 257 * (40 + n), np.uint16)).save(root / split / name / f"{n}.png")


def test_folders_of_16_bits_and_hidden_files(tmp_path):
    """Notebooks, git and file managers leave hidden folders and files; none is a class or an image."""
    write_folders(tmp_path)
    for split in ("train", "val"):
        for hidden in (".ipynb_checkpoints", ".git"):
            (tmp_path / split / hidden).mkdir()
            (tmp_path / split / hidden / "0.png").write_text("no image")
        (tmp_path / split / ".DS_Store").write_text("x")
        (tmp_path / split / "ant" / "._0.png").write_text("x")
        (tmp_path / split / "ant" / ".ipynb_checkpoints").mkdir()
    data = load_dataset(FolderData(kind="folder", dir=str(tmp_path), size=24, test_resize=28, workers=0))
    assert data.classes == ("ant", "cat")
    (batch,) = Loader(data.test, 8, shuffle=False).epoch(0)
    assert batch.images.unique().tolist() == [40, 41]
    assert torch.equal(batch.images[0], torch.full((3, 24, 24), 40, dtype=torch.uint8))
