"""A trained run in Python: its network, and images of any kind to classes."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import isospike as iso
from helpers import enliven
from isospike.data import load_dataset
from isospike.errors import CheckpointError, ConfigError, DataError, IsospikeWarning
from isospike.processes import World
from isospike.recipes import load_recipe
from isospike.run_folder import RunFolder
from isospike.train import Trainer
from isospike.train.display import SilentDisplay
from isospike.train.start import create_run

CPU = torch.device("cpu")


def train(path, *changes, max_steps=None):
    """A run on a few synthetic images, to its end or not."""
    data = "{kind: synthetic, classes: 4, channels: 3, size: 16, train: 64, test: 16}"
    small = [f"data={data}", "model.name=ms_resnet8", "model.T=2", "model.width=8", "train.epochs=3",
             "train.batch_size=8", "train.tensorboard=false"]  # fmt: skip
    config = load_recipe("digits_ms_resnet20", [*small, *changes])
    run, dataset = RunFolder(path), load_dataset(config.data)
    create_run(run, config, dataset, CPU)
    Trainer(config, dataset, run, World(0, 1, CPU), SilentDisplay()).fit(max_steps=max_steps)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("predictor") / "run")


@pytest.fixture
def model():
    """Grey images of 12 pixels, from the middle of 16."""
    model = enliven(iso.create_model("ms_resnet8", width=8, T=2, in_channels=1, num_classes=3)).eval()
    model.inputs = iso.Inputs(12, (0.4,), (0.2,), ("ant", "bee", "cat"), resize=16)
    return model


def grey(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


# A run ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_model(run):
    model = iso.from_pretrained(run)
    assert not model.training
    assert (model.T, model.layout.stem_width, model.options["num_classes"]) == (2, 8, 4)
    weights = iso.weights.load_tensors(run / "model.safetensors")[0]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    facts = RunFolder(run).read_analysis("data")
    assert model.inputs == iso.Inputs(16, facts["mean"], facts["std"], facts["classes"])


def test_a_run_predicts_what_its_test_found(run):
    data = load_dataset(RunFolder(run).read_config().data)
    predictor = iso.load_run(run, compiled=False)
    shares = predictor(data.test.images).probabilities
    assert shares.std(0).min() > 0.01  # it does not say the same of all
    labels = data.test.labels
    loss = -shares[torch.arange(len(labels)), labels].log().mean().item()
    tested = RunFolder(run).read_analysis("test")
    assert loss == pytest.approx(tested["loss"], rel=1e-5)
    assert (shares.argmax(1) == labels).float().mean().item() == pytest.approx(tested["accuracy"])


def test_the_averaged_weights_of_a_run_that_averages(tmp_path):
    run = train(tmp_path / "run", "train.ema=0.5", max_steps=3)
    tensors = iso.weights.load_tensors(RunFolder(run).checkpoint("last"))[0]
    model = iso.from_pretrained(run, checkpoint="last")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[f"ema.{name}"]), name
    assert any(not torch.equal(tensors[f"ema.{name}"], tensors[f"model.{name}"]) for name in model.state_dict())


def test_a_run_that_has_not_ended_gives_its_last_checkpoint_and_says_so(tmp_path):
    run = train(tmp_path / "run", max_steps=3)
    with pytest.warns(IsospikeWarning, match=r"run was not trained to its end: these are the weights of its last"):
        iso.load_run(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iso.load_run(run, checkpoint="last")


def test_the_best_checkpoint_of_a_run(run):
    best = iso.weights.load_tensors(RunFolder(run).checkpoint("best"))[0]
    model = iso.from_pretrained(run, checkpoint="best", T=3)
    assert model.T == 3
    assert all(torch.equal(tensor, best[f"model.{name}"]) for name, tensor in model.state_dict().items())


def test_a_run_goes_to_the_hub_with_what_its_inputs_need(run, tmp_path):
    iso.save_pretrained(iso.from_pretrained(run), tmp_path)
    pictures = load_dataset(RunFolder(run).read_config().data).test.images
    again = iso.Predictor(iso.from_pretrained(tmp_path))(pictures)
    assert torch.equal(again.probabilities, iso.load_run(run)(pictures).probabilities)
    assert again.classes == tuple(f"pattern {number}" for number in range(4))


def test_what_a_run_lacks_is_named(run, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere is not a run folder: it holds no config.yaml"):
        iso.load_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"checkpoint='best' is for the folder of a run, and .* is none"):
        iso.from_pretrained(tmp_path, checkpoint="best")
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(CheckpointError, match=r"checkpoints/first.safetensors does not exist"):
        iso.load_run(copy, checkpoint="first")
    (copy / "model.safetensors").unlink()
    (copy / "checkpoints" / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"copy holds no weights yet: there is neither .*model.safetensors nor"):
        iso.load_run(copy)
    facts = RunFolder(copy).analysis("data")
    facts.write_text('{"size": 16, "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}')
    with pytest.raises(ConfigError, match=r"data.json: it says nothing of the classes of the images"):
        iso.load_run(copy)
    facts.unlink()
    with pytest.raises(ConfigError, match=r"copy holds no analysis/data.json"):
        iso.from_pretrained(copy)


# Images --------------------------------------------------------------------------------------------------------------


def by_hand(model, picture):
    """Scaled, cut and normalised without the classes that do it."""
    width, height = picture.size
    scale = 16 / min(width, height)
    scaled = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (scaled.width - 12) // 2, (scaled.height - 12) // 2
    pixels = torch.from_numpy(np.array(scaled.crop((left, top, left + 12, top + 12)))).float()
    with torch.no_grad():
        return model((pixels / 255 - 0.4)[None, None] / 0.2).softmax(-1)


@pytest.mark.parametrize("size", [(20, 33), (16, 16), (50, 18), (7, 5)])
def test_one_picture_in_every_form_is_the_same(model, tmp_path, size):
    array = grey(*size)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "x.png")
    predictor = iso.Predictor(model, compiled=False)
    expected = by_hand(model, picture)
    assert expected.max() - expected.min() > 1e-3
    tensor = torch.from_numpy(array)
    for form in (
        tmp_path / "x.png", str(tmp_path / "x.png"), picture, array, array[..., None], tensor, tensor[None],
        [array], (tensor,), array[None, ..., None], tensor[None, None], picture.convert("RGB"),
    ):  # fmt: skip
        found = predictor(form)
        torch.testing.assert_close(found.probabilities, expected, rtol=1e-5, atol=1e-6)


def test_an_image_of_16_bits_is_scaled_and_not_cut_off(model):
    wide = Image.fromarray(grey(16, 16).astype(np.uint16) * 257)
    found = iso.Predictor(model, compiled=False)(wide).probabilities
    torch.testing.assert_close(found, by_hand(model, Image.fromarray(grey(16, 16))), rtol=1e-5, atol=1e-6)


def test_colour_is_channels_last_in_numpy_and_first_in_pytorch():
    model = enliven(iso.create_model("ms_resnet8", width=8, T=2))
    model.inputs = iso.Inputs(8, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    predictor = iso.Predictor(model)
    colour = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    expected = predictor(Image.fromarray(colour)).probabilities
    assert torch.equal(predictor(colour).probabilities, expected)
    assert torch.equal(predictor(torch.from_numpy(colour).permute(2, 0, 1)).probabilities, expected)
    assert not torch.equal(predictor(torch.from_numpy(colour)).probabilities, expected)


def test_many_pictures_go_in_batches_and_come_in_order(model):
    pictures = [grey(16, 16 + n, seed=n) for n in range(7)]
    whole = iso.Predictor(model, compiled=False)(pictures)
    parts = iso.Predictor(model, compiled=False, batch_size=3)(pictures)
    torch.testing.assert_close(parts.probabilities, whole.probabilities)
    for number, picture in enumerate(pictures):
        torch.testing.assert_close(whole.probabilities[number : number + 1], by_hand(model, Image.fromarray(picture)))


def test_labels_and_the_likeliest():
    prediction = iso.Prediction(torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]]), ("ant", "bee", "cat"))
    assert prediction.labels == ["bee", "ant"]
    assert [[name for name, _ in row] for row in prediction.top(2)] == [["bee", "ant"], ["ant", "cat"]]
    assert [share for _, share in prediction.top()[0]] == pytest.approx([0.7, 0.2, 0.1])


def test_compiled_and_in_8_bits_it_says_nearly_the_same(model):
    pictures = [grey(16, 16, seed=n) for n in range(8)]
    eager = iso.Predictor(model, compiled=False)(pictures).probabilities
    torch.testing.assert_close(iso.Predictor(model)(pictures).probabilities, eager, rtol=1e-3, atol=1e-3)
    predictor = iso.Predictor(model, precision="int8")
    assert predictor.net.precision == "int8"
    torch.testing.assert_close(predictor(pictures).probabilities, eager, rtol=0, atol=0.2)


def test_classes_without_names_are_numbers(model):
    model.reset_classifier(2)
    assert model.inputs == iso.Inputs(12, (0.4,), (0.2,), resize=16)
    assert set(iso.Predictor(model)([grey(16, 16)]).labels) <= {"0", "1"}


def test_a_model_that_cannot_predict_is_refused(model):
    with pytest.raises(ConfigError, match=r"precision='int8' is of the compiled network"):
        iso.Predictor(model, compiled=False, precision="int8")
    with pytest.raises(ConfigError, match=r"batch_size is a number of images from 1 on, got 0"):
        iso.Predictor(model, batch_size=0)
    with pytest.raises(ConfigError, match=r"the inputs name 2 classes, and the model tells 3 apart"):
        iso.Predictor(model, iso.Inputs(12, (0.4,), (0.2,), ("ant", "bee")))
    with pytest.raises(ConfigError, match=r"the inputs have 3 channels, and the model reads 1"):
        iso.Predictor(model, iso.Inputs(12, (0.4,) * 3, (0.2,) * 3))
    model.inputs = None
    with pytest.raises(ConfigError, match=r"this model says nothing of its inputs: give inputs=isospike.Inputs"):
        iso.Predictor(model)
    model.reset_classifier(0)
    with pytest.raises(ConfigError, match=r"this model is a backbone without a classifier"):
        iso.Predictor(model, iso.Inputs(12, (0.4,), (0.2,)))
    events = iso.create_model("ms_resnet8", width=8, in_channels=2)
    with pytest.raises(ConfigError, match=r"images are grey or RGB, and this model reads 2 channels"):
        iso.Predictor(events, iso.Inputs(12, (0.4,) * 2, (0.2,) * 2))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "there are no images to predict"),
        ([grey(4, 4), 3], "image 1 is a int, not a path"),
        (grey(4, 4) / 255, "image 0 is of float64, and images are uint8 from 0 to 255: call the model itself"),
        (torch.rand(3, 8, 8), r"image 0 is of torch.float32, and images are uint8"),
        (np.zeros((0, 4), np.uint8), r"image 0 has the shape \[0, 4\], expected \[H, W\] or \[H, W, C\]"),
        (np.zeros((4,), np.uint8), r"image 0 has the shape \[4\]"),
        (np.zeros((4, 4, 5), np.uint8), r"image 0 has the shape \[4, 4, 5\]"),
        (torch.zeros(9, 4, 4, dtype=torch.uint8), r"expected \[H, W\] or \[C, H, W\] with C from 1 to 4"),
        ("nowhere.png", "nowhere.png cannot be read as an image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(model, images, says):
    with pytest.raises(DataError, match=rf"^[^\n]*{says}"):
        iso.Predictor(model)(images)
