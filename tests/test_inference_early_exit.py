"""Early exit: samples leave when their decision is settled, and nothing else changes."""

import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError
from isospike.inference.early_exit import lead, running_mean

NETWORKS = [(f"{topology}_resnet8", {}) for topology in iso.TOPOLOGIES] + [
    ("vanilla_resnet19", {"width": 8}),
    ("ms_resnet8", {"per_step_norm": True}),
    ("ds_resnet8", {"neuron": {"kind": "ilif"}}),
]


def compiled(name, **options):
    model = enliven(iso.create_model(name, T=4, **options)).double().eval()
    if model.head.hidden is not None:
        torch.nn.init.normal_(model.head.hidden.weight)  # so that its neurons fire at the first step already
    return model.compile_for_inference()


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
@pytest.mark.parametrize("sequence", [False, True])
def test_logits_are_the_mean_over_the_steps_that_a_sample_took(name, options, sequence):
    """Step by step, with samples that leave, is what all steps at once are."""
    net = compiled(name, **options)
    x = torch.rand(*([4] if sequence else []), 6, 3, 16, 16).double()
    means = running_mean(net(x, per_step=True))
    leads = lead(means)
    margin = leads[0].median().item()
    logits, steps = iso.EarlyExit(net, margin)(x)
    assert len(steps.unique()) > 1
    for sample, taken in enumerate(steps.tolist()):
        torch.testing.assert_close(logits[sample], means[taken - 1, sample])
        assert taken == 4 or leads[taken - 1, sample] >= margin
        assert (leads[: taken - 1, sample] < margin).all()


def test_margins_at_both_ends():
    net, x = compiled("ms_resnet8"), torch.rand(3, 3, 32, 32).double()
    assert iso.EarlyExit(net, 0.0)(x).steps.tolist() == [1, 1, 1]
    logits, steps = iso.EarlyExit(net, float("inf"))(x)
    assert steps.tolist() == [4, 4, 4]
    torch.testing.assert_close(logits, net(x))


@pytest.mark.parametrize("agreement", [0.6, 0.9, 1.0])
def test_the_wanted_share_of_decisions_stays_on_what_it_was_calibrated_on(agreement):
    net, x = compiled("sew_resnet8"), torch.rand(40, 3, 16, 16).double()
    early = iso.EarlyExit.calibrated(net, x.split(16), agreement)
    logits, steps = early(x)
    assert (logits.argmax(-1) == net(x).argmax(-1)).double().mean() >= agreement
    looser = iso.EarlyExit.calibrated(net, x.split(16), agreement - 0.3)
    assert looser.margin <= early.margin
    assert looser(x).steps.sum() <= steps.sum()


def test_what_makes_no_sense_is_refused():
    net = compiled("ms_resnet8")
    with pytest.raises(ConfigError, match="margin .* must be 0 or more, got -1"):
        iso.EarlyExit(net, -1)
    for share in (0, 1.5):
        with pytest.raises(ConfigError, match=r"must be in \(0, 1\]"):
            iso.EarlyExit.calibrated(net, [], share)
    with pytest.raises(ConfigError, match="calibrated on images, and there are none"):
        iso.EarlyExit.calibrated(net, [], 0.9)
    with pytest.raises(ConfigError, match="decides between classes, and this network has 1"):
        iso.EarlyExit(compiled("ms_resnet8", num_classes=1), 1.0)(torch.rand(2, 3, 32, 32).double())
