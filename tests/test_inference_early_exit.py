"""Early exit: samples leave when their decision is settled, and nothing else changes."""

import numpy as np
import pytest
import torch
from PIL import Image

import isospike as iso
from helpers import enliven
from isospike.data import Augment, AugmentSpec, load_dataset
from isospike.data.dataset import stratified
from isospike.data.folder import FolderData
from isospike.errors import ConfigError
from isospike.evaluation import fast
from isospike.inference.early_exit import lead, running_mean
from isospike.processes import World

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
    margin = leads[0].sort().values[2:4].mean().item()  # between two leads: at one of them the last bit decides
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


def folder_sorted_by_class(root):
    """90 dark images of the class "a", then 10 bright ones of "b", each lighter towards its left edge."""
    for split, counts in (("train", (90, 10)), ("val", (2, 2))):
        for name, count, grey in zip("ab", counts, (40, 200), strict=True):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = np.full((24, 24), grey, np.uint8)
                pixels[:, :4] += 40
                Image.fromarray(pixels).save(root / split / name / f"{n:03}.png")
    return load_dataset(FolderData(kind="folder", dir=str(root), size=16, test_resize=20, workers=0))


def test_early_exit_is_calibrated_on_images_of_every_class_as_the_test_shows_them(tmp_path, monkeypatch):
    """In a folder the last images are of one class, and training cuts a random part out of each."""
    dataset = folder_sorted_by_class(tmp_path)
    seen = []
    monkeypatch.setattr(fast, "CALIBRATION_IMAGES", 20)
    monkeypatch.setattr(
        fast.EarlyExit, "calibrated", lambda net, batches, share: seen.extend(batches) or iso.EarlyExit(net, 1.0)
    )
    augment = Augment(AugmentSpec(crop=4, flip=True, cutout=8), dataset.mean, dataset.std, 2)
    net = fast.FastNetwork(iso.create_model("ms_resnet8", num_classes=2).eval(), "float32")
    net.calibrate(0.9, dataset, augment, batch_size=8, device=torch.device("cpu"))
    assert [len(batch) for batch in seen] == [8, 8, 4]
    shown = torch.cat(seen)
    dark, bright = (augment.test(next(dataset.test.batches([torch.tensor([n])], 0))) for n in (0, 2))
    assert [torch.equal(image, dark[0]) for image in shown] == [True] * 18 + [False] * 2
    assert [torch.equal(image, bright[0]) for image in shown] == [False] * 18 + [True] * 2
    net.images = 1
    world = World(0, 1, torch.device("cpu"))
    assert net.facts(world)["early_exit"]["calibration"] == "20 training images, of every class its share"


@pytest.mark.parametrize("order", ["sorted", "mixed"])
@pytest.mark.parametrize("count", [1, 37, 200, 500])
def test_a_stratified_sample_has_of_every_class_its_share(order, count):
    labels = torch.arange(3).repeat_interleave(torch.tensor([100, 60, 40]))
    labels = labels if order == "sorted" else labels[torch.randperm(200)]
    chosen = stratified(labels, count)
    assert len(chosen.unique()) == len(chosen) == min(count, 200)
    found = torch.bincount(labels[chosen], minlength=3)
    assert ((found - torch.tensor([0.5, 0.3, 0.2]) * len(chosen)).abs() < 1).all()
