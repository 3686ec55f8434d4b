"""Where the error of a conversion comes from: parts that add up, each by hand, and what follows in words."""

import dataclasses

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import enliven
from isospike.analysis import conversion
from isospike.analysis.conversion import ConversionReport, LayerError, StepEnergy, evenly, layer_errors
from isospike.conversion import METHODS, capture
from isospike.conversion.methods import from_half, from_rest
from isospike.errors import ConfigError


class OneLayer(nn.Module):
    """Images of one pixel: a current of so many times the pixel, rectified, and a class for it and against it."""

    def __init__(self, weights=(1.0,)):
        super().__init__()
        self.conv = nn.Conv2d(1, len(weights), 1, bias=False)
        self.fc = nn.Linear(len(weights), 2, bias=False)
        self.conv.weight.data = torch.tensor(weights).view(-1, 1, 1, 1)
        self.fc.weight.data = torch.stack([torch.ones(len(weights)), -torch.ones(len(weights))])
        self.eval()

    def forward(self, x):
        return self.fc(self.conv(x).relu().flatten(1))


class TwoLayers(OneLayer):
    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(1, 1, 1)
        self.second.weight.data.fill_(1.0)
        self.second.bias.data.fill_(0.1)

    def forward(self, x):
        return self.fc(self.second(self.conv(x).relu()).relu().flatten(1))


def pixels(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def converted(ann, images, **options):
    return iso.convert(ann, images, method="percentile", **{"quantile": 1.0, **options})


def test_clipping_and_quantisation_by_hand():
    """The threshold is 1, so a pixel of 2 is cut to 1; at T=4 a pixel of 0.4 is rounded to 2/4."""
    ann = OneLayer()
    net = converted(ann, pixels(0.5, 1.0), T=4)
    (layer,) = layer_errors(capture(ann, pixels(1.0)), net, pixels(2.0), 4)
    assert (layer.clipping, layer.quantisation, layer.unevenness, layer.inherited) == (0.5, 0, 0, 0)
    assert layer.error == layer.own == 0.5
    assert layer.activation == 2
    assert layer.correlation is None
    (layer,) = layer_errors(capture(ann, pixels(1.0)), net, pixels(0.4), 4)
    assert layer.quantisation == pytest.approx(0.25)
    assert (layer.clipping, layer.unevenness, layer.inherited) == (0, 0, 0)
    assert layer.largest_part == "quantisation"


def test_what_the_first_layer_rounds_is_inherited_by_the_second():
    """At T=4 a pixel of 0.33 is rounded to 1/4. With 0.1 more that is 0.43 or 0.35, of 1.1: 2/4 or 1/4."""
    ann = TwoLayers().eval()
    net = converted(ann, pixels(0.5, 1.0), T=4)
    first, second = layer_errors(capture(ann, pixels(1.0)), net, pixels(0.33), 4)
    assert first.inherited == 0
    assert first.error == first.quantisation == pytest.approx(0.08 / 0.33)
    assert second.inherited == pytest.approx(1.1 / 4 / 0.43)
    assert second.quantisation == pytest.approx((2 * 1.1 / 4 - 0.43) / 0.43)
    assert second.unevenness == pytest.approx(0, abs=1e-6)
    assert second.error == pytest.approx((0.43 - 1.1 / 4) / 0.43)


def test_uneven_spikes_are_told_apart():
    """Spikes that come after the negative current they should cancel: the mean current is 0, and still it fires."""
    ann = OneLayer()
    net = converted(ann, pixels(0.5, 1.0), T=2)
    neuron = net.get_submodule(next(iter(net.units)))
    current = torch.tensor([[[[[1.0]]]], [[[[-1.0]]]]])
    s, _ = neuron(current)
    assert s.mean() == 0.5
    assert evenly(neuron, current.mean(0), 2).item() == 0


@pytest.mark.parametrize("neuron", [from_rest, from_half, lambda: from_half(3)])
@pytest.mark.parametrize("T", [1, 5, 8])
def test_an_even_current_is_what_the_neuron_makes_of_it(neuron, T):
    z = torch.linspace(-0.5, 1.5, 17).view(1, 1, 1, -1)
    together, _ = neuron()(z.expand(T, *z.shape[1:]).unsqueeze(1))
    assert torch.equal(evenly(neuron(), z, T), together.mean(0))


@pytest.fixture(scope="module")
def digits():
    """A network of one block, some digits of noise, and labels that the ANN gives them."""
    torch.manual_seed(0)
    ann = iso.create_ann_twin("vanilla_resnet8", width=4, num_classes=5, in_channels=1)
    images = torch.randn(200, 1, 8, 8)
    ann.train()(images)
    ann.eval()
    with torch.no_grad():
        labels = ann(images).argmax(1)
    return ann, images, labels


@pytest.mark.parametrize("method", [name for name in METHODS if name != "qcfs"])
def test_the_parts_of_every_layer_add_up(digits, method, monkeypatch):
    """Neuron by neuron: what stands in the report are root mean squares, so they are caught on their way there."""
    ann, images, _ = digits
    net = iso.convert(ann, images, method=method, T=6)
    kept = []
    real = conversion._Sums.add

    def keep(self, neuron, unit, z, activation, current, output, T):
        kept.append((self, activation.clone(), output * unit))
        real(self, neuron, unit, z, activation, current, output, T)

    monkeypatch.setattr(conversion._Sums, "add", keep)
    layers = layer_errors(capture(ann, images), net, images[:16], 6)
    assert len(layers) == len(kept) == len(net.units) == 7
    for layer, (_, activation, output) in zip(layers, kept, strict=True):
        size = activation.square().mean().sqrt()
        assert layer.error == pytest.approx(float((output - activation).square().mean().sqrt() / size), rel=1e-4)
        pair = torch.stack([activation.flatten(), output.flatten()])
        assert layer.correlation == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-4)
        bounds = layer.clipping + layer.quantisation + layer.unevenness + layer.inherited
        assert layer.error <= bounds + 1e-6
        assert layer.own <= layer.clipping + layer.quantisation + layer.unevenness + 1e-6
    inherits = method == "calibrated"  # biases that correct it
    assert layers[0].inherited > 0.01 if inherits else layers[0].inherited == pytest.approx(0, abs=1e-6)


def test_a_report_of_everything(digits):
    ann, images, labels = digits
    net = iso.convert(ann, images[:100], method="mmse", T=8)
    report = iso.conversion_report(ann, net, images[100:], labels[100:], calibration=images[:50])
    assert report.ann_accuracy == 1
    assert report.steps == 8
    expected = [(net(images[100:], T=t).argmax(1) == labels[100:]).double().mean().item() for t in (1, 8)]
    assert [report.accuracy[0], report.accuracy[7]] == pytest.approx(expected, abs=0.011)
    assert [step.T for step in report.energy] == [1, 2, 4, 8]
    measured = iso.measure_energy(net, images[100:132], T=4)
    assert report.energy[2] == StepEnergy(4, measured.mj["stem_once"], measured.spikes_per_neuron)
    assert report.ann_mj == measured.mj["ann"]
    assert 1 <= report.early_exit.average_steps <= 8
    assert report.early_exit.images == 100
    assert report.costliest == max(report.layers, key=lambda layer: layer.own)
    assert report.as_dict()["recommendation"] == report.recommendation
    fewer = iso.conversion_report(ann, net, images[100:], labels[100:], T=3)
    assert fewer.accuracy == report.accuracy[:3]
    assert fewer.early_exit is None


LAYER = LayerError("a", 1.0, 0.3, 0.1, 0.2, 0.05, 0.1, 0.25, 0.9)


def report_of(accuracy, loss=0.01, layers=(LAYER,)):
    energy = tuple(StepEnergy(t, 1e-3 * t, 0.1 * t) for t in (1, 2, len(accuracy)))
    return ConversionReport(loss, 1000, 0.9, tuple(accuracy), layers, 4e-3, energy)


@pytest.mark.parametrize(
    ("accuracy", "loss", "steps"),
    [
        ((0.1, 0.89, 0.88, 0.9, 0.895), 0.01, 4),  # within at 2, and out of it again
        ((0.1, 0.89, 0.91, 0.92, 0.9), 0.01, 2),  # 0.89 is 0.9 - 0.01, whatever the floats say
        ((0.95, 0.95, 0.95, 0.95, 0.95), 0.0, 1),
        ((0.1, 0.2, 0.3, 0.4, 0.89), 0.001, None),
    ],
)
def test_the_smallest_number_of_steps_from_which_on_the_loss_is_kept(accuracy, loss, steps):
    assert report_of(accuracy, loss).steps_needed == steps


def test_what_to_do_in_words():
    worse = dataclasses.replace(LAYER, name="b", own=0.5, unevenness=0.4)
    steps, layer, energy = report_of((0.1, 0.89, 0.9, 0.9, 0.9), layers=(LAYER, worse)).recommendation
    assert steps.startswith("T=2 is the smallest number of steps from which on at most 1 point are lost: 89.00%, where")
    assert "one of the 1,000 images is 0.1)" in steps
    assert layer.startswith(
        "'b' costs most: it adds an error of 50.0% of its activation at T=5, most of it by unevenness"
    )
    assert energy == ("At T=2 an image takes 2 uJ and 0.2 spikes per neuron; the ANN, dense, takes 2 times as much.")
    steps, layer, energy = report_of((0.1, 0.3, 0.2, 0.2, 0.2), 0.02).recommendation
    assert "No number of steps up to T=5 keeps within 2 points of the ANN's 90.00%: the best is 30.00% at T=2" in steps
    assert "most of it by quantisation" in layer
    assert "At T=5 an image takes 5 uJ and 0.5 spikes per neuron; the ANN, dense, takes 80% of it." in energy


def test_what_makes_no_report_is_refused(digits):
    ann, images, labels = digits
    net = iso.convert(ann, images, method="mmse", T=2)
    with pytest.raises(
        ConfigError, match="has 7 layers of neurons in place of rectifiers, and the ANN has 1 rectifiers"
    ):
        layer_errors(capture(OneLayer(), images[:, :, :1, :1]), net, images, 2)
    with pytest.raises(ConfigError, match=r"loss is a share of accuracy in \[0, 1\), as 0.01 for one point, got 1.5"):
        iso.conversion_report(ann, net, images, labels, loss=1.5)
    with pytest.raises(ConfigError, match="images and a label for each of them, got 200 and 3"):
        iso.conversion_report(ann, net, images, labels[:3])
    with pytest.raises(ConfigError, match="'opening.spike' puts out spikes, so this network is a spiking one already"):
        iso.convert(enliven(iso.create_model("vanilla_resnet8")).eval(), torch.randn(8, 3, 8, 8))
