"""A pass over a test split: accuracy after every step, and the images that were wrong with the highest probability."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import isospike as iso
from helpers import enliven
from isospike.data import Augment, AugmentSpec, Loader, load_dataset
from isospike.data.images import ArrayImages
from isospike.data.synthetic import SyntheticData
from isospike.evaluation.confused import KEPT, LARGEST_SIDE, Confused, merge
from isospike.evaluation.evaluate import as_results, evaluate
from isospike.processes import World
from isospike.run_folder import RunFolder

WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(SyntheticData(kind="synthetic", classes=4, channels=3, size=8, train=8, test=60))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return enliven(iso.create_model("ms_resnet8", T=3, num_classes=4)).eval()


def evaluated(model, dataset, batch_size=7):
    augment = Augment(AugmentSpec(), dataset.mean, dataset.std, len(dataset.classes))
    return evaluate(model, Loader(dataset.test, batch_size, shuffle=False), augment, WORLD), augment


def test_accuracy_after_each_step_is_that_of_the_network_with_so_many(model, dataset):
    tested, augment = evaluated(model, dataset)
    assert len(tested.correct_after) == 3
    with torch.no_grad():
        for T, correct in enumerate(tested.correct_after, start=1):
            guesses = model(augment.test(dataset.test.images), T=T).argmax(-1)
            assert correct == int((guesses == dataset.test.labels).sum())
    assert len(set(tested.correct_after)) > 1  # the steps differ here, so that taking one for another would show
    assert tested.correct_after[-1] == int(tested.confusion.trace())
    result = tested.as_dict(dataset, checkpoint="last")
    assert result["accuracy_after"][-1] == result["accuracy"]


def test_wrong_images_are_those_of_the_highest_probability(model, dataset):
    tested, augment = evaluated(model, dataset)
    with torch.no_grad():
        probabilities, guesses = model(augment.test(dataset.test.images)).softmax(-1).max(-1)
    wrong = [i for i in range(60) if guesses[i] != dataset.test.labels[i]]
    expected = sorted(wrong, key=lambda i: -float(probabilities[i]))[:KEPT]
    assert len(wrong) > KEPT
    assert [image.index for image in tested.confused] == expected
    for image in tested.confused:
        assert (image.true, image.guess) == (int(dataset.test.labels[image.index]), int(guesses[image.index]))
        assert image.probability == pytest.approx(float(probabilities[image.index]), rel=1e-4)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.png)))).transpose(2, 0, 1)
        assert np.array_equal(pixels, dataset.test.images[image.index].numpy())


def test_the_size_of_batches_changes_nothing(model, dataset):
    small, large = (evaluated(model, dataset, size)[0] for size in (7, 60))
    assert small.correct_after == large.correct_after
    assert [i.index for i in small.confused] == [i.index for i in large.confused]


def test_what_processes_kept_is_merged(dataset):
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    whole, parts = Confused(), [Confused(), Confused()]
    indices = torch.arange(60)
    whole.add(dataset.test.images, dataset.test.labels, logits, indices)
    for rank, part in enumerate(parts):
        own = indices[rank::2]
        part.add(dataset.test.images[own], dataset.test.labels[own], logits[own], own)
    assert merge([part.images() for part in parts]) == merge([whole.images()])


def test_large_and_grey_images_become_small_pictures(tmp_path, dataset):
    confused = Confused()
    big = torch.randint(0, 256, (1, 1, 300, 200), dtype=torch.uint8)
    confused.add(big, torch.tensor([1]), torch.tensor([[9.0, 0.0]]), torch.tensor([5]))
    (image,) = confused.images()
    picture = Image.open(io.BytesIO(base64.b64decode(image.png)))
    assert (picture.mode, max(picture.size)) == ("L", LARGEST_SIDE)
    assert len(image.png) < 8_000


def test_the_files_of_a_test_say_classes_by_name(tmp_path, model, dataset):
    tested, _ = evaluated(model, replace(dataset, classes=("a", "b", "c", "d")))
    run = RunFolder(tmp_path)
    run.write_analyses(as_results(tested, replace(dataset, classes=("a", "b", "c", "d")), checkpoint="best"))
    assert run.read_analysis("test")["checkpoint"] == "best"
    found = run.read_analysis("confused")
    assert found["checkpoint"] == "best"
    assert {image["true"] for image in found["images"]} <= set("abcd")
    assert run.analysis("confused").stat().st_size < 40_000


def test_a_network_that_is_right_has_no_wrong_images(dataset):
    class Right(torch.nn.Module):
        def forward(self, x, *, per_step):
            return torch.nn.functional.one_hot(self.labels, 4).float()[None]

    model = Right()
    model.labels = dataset.test.labels
    tested, _ = evaluated(model, dataset, 60)
    assert (tested.accuracy, tested.confused, tested.correct_after) == (1.0, (), (60,))
    assert isinstance(dataset.test, ArrayImages)
