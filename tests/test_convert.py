"""``iso.convert``: an ANN of anybody and images in, a spiking network out; all else is refused before work starts."""

import pytest
import torch
from torch import nn

import isospike as iso
from ann_nets import CifarResNet
from helpers import enliven
from isospike.conversion import METHODS, capture
from isospike.errors import ConfigError, ShapeError, UnknownName

IMAGES = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ann():
    torch.manual_seed(0)
    return enliven(iso.create_ann_twin("vanilla_resnet8", width=4, num_classes=5)).eval()


def with_statistics(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.0)
    return net.eval()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "qcfs"])
def test_it_is_the_method_on_the_captured_ann(ann, method):
    options = {"T": 4} | ({"steps": 3} if method == "ltb" else {})
    net = iso.convert(ann, IMAGES, method=method, **options)
    expected = METHODS[method].convert(capture(ann, IMAGES), [IMAGES], **options)
    assert torch.equal(net(IMAGES[:4], per_step=True), expected(IMAGES[:4], per_step=True))
    assert net.T == 4


def test_batches_are_the_images_together(ann):
    nets = [iso.convert(ann, given, T=4) for given in (IMAGES, IMAGES.split(7), iter(IMAGES.split(5)))]
    logits = [net(IMAGES[:4]) for net in nets]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0])


def test_a_network_of_pytorch_is_converted_and_stays_as_it_is():
    torch.manual_seed(0)
    theirs = with_statistics(CifarResNet())
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    images = torch.rand(8, 3, 32, 32)
    net = iso.convert(theirs, images, method="max", T=256)
    torch.testing.assert_close(net(images), theirs(images), rtol=0, atol=0.1 * theirs(images).abs().max().item())
    assert all(torch.equal(before[name], tensor) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (IMAGES, {"method": "s_resnte"}, UnknownName, "unknown method 's_resnte'; nearest: s_resnet"),
        (IMAGES, {"steps": 4}, UnknownName, "option of method 's_resnet' 'steps'"),
        ([], {}, ConfigError, "converted on calibration images, and there are none"),
        (IMAGES[:0], {}, ConfigError, "converted on calibration images, and there are none"),
        (IMAGES[0], {}, ConfigError, r"calibration images are \[N, C, H, W\], .* got \[3, 16, 16\]"),
        (IMAGES[:, :1], {}, ShapeError, r"the model takes \[B, 3, H, W\].*, got \[24, 1, 16, 16\]"),
        ([IMAGES, IMAGES[:, :1]], {}, ShapeError, r"the model takes \[B, 3, H, W\].*, got \[24, 1, 16, 16\]"),
        (IMAGES.double(), {}, ShapeError, "the model computes in float32 and its input is float64"),
        (IMAGES / 0, {}, ConfigError, "calibration images hold numbers that are not finite"),
    ],
)
def test_what_cannot_be_converted_is_refused(ann, images, options, error, message):
    with pytest.raises(error, match=message):
        iso.convert(ann, images, **options)


def test_images_that_a_network_of_pytorch_does_not_take_are_refused():
    theirs = with_statistics(CifarResNet())
    with pytest.raises(ConfigError, match=r"CifarResNet does not take the calibration images, .* \[B, 1, 32, 32\]: "):
        iso.convert(theirs, torch.rand(2, 1, 32, 32))
