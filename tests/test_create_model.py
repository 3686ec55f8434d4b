"""What people ask create_model for out of habit, neurons in every form, and inputs of the wrong kind."""

import json
import re

import numpy as np
import pytest
import torch

import isospike as iso
from helpers import SPIKING, enliven, make_neuron
from isospike.errors import ConfigError, ShapeError, UnknownName
from isospike.models.zoo import HABITS, MAX_DEPTH
from isospike.neurons import SpikingNeuron
from isospike.residual import TOPOLOGIES


@pytest.mark.parametrize("create", [iso.create_model, iso.create_ann_twin, iso.model_card])
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("in_chans", "'in_chans': in_channels is the word here"),
        ("drop_rate", "'drop_rate': dropout is the word here"),
        ("pretrained", r"'pretrained': weights='digits' names .* iso.from_pretrained\(.*iso.load_published\("),
        ("tau", r"'tau': it belongs to the neuron, neuron=\{'tau': ...\}"),
        ("neurn", "'neurn'; nearest: neuron"),
        ("xyz", "'xyz'; none of the"),
    ],
)
def test_an_unknown_option_is_answered(create, option, says):
    with pytest.raises(UnknownName, match=f"^unknown option of create_model {says}"):
        create("ms_resnet8", **{option: 1})


def test_habits_are_no_options_and_name_options():
    with torch.device("meta"):
        for habit, answer in HABITS.items():
            with pytest.raises(UnknownName):
                iso.create_model("ms_resnet8", **{habit: 1})
            word = re.match(r"(\w+) is the word here|(\w+)=", answer)
            if word:
                iso.create_model("ms_resnet8", **{word[1] or word[2]: None})


def test_aliases_are_listed_where_their_networks_are_not():
    assert iso.list_models("srm_*") == [name.replace("ms_", "srm_") for name in iso.list_models("ms_*")]
    assert "srm_resnet20" not in iso.list_models() + iso.list_models("*_resnet20")
    assert TOPOLOGIES.aliases == {"srm": "ms"}
    with pytest.raises(UnknownName, match="nearest: srm_resnet20"):
        iso.create_model("srm_resnt20")


@pytest.mark.parametrize("name", ["ms_resnet20000", "sew_resnet999999999999998"])
def test_a_depth_without_end_is_refused_before_anything_is_built(name):
    with pytest.raises(ConfigError, match=f"'{name}' has .* layers: a model can have up to {MAX_DEPTH}"):
        iso.create_model(name)


@pytest.mark.parametrize("kind", SPIKING)
def test_a_neuron_is_given_as_options_as_an_object_or_as_what_makes_one(kind):
    made = make_neuron(kind)
    x = torch.randn(2, 3, 16, 16)
    logits = []
    for spec in (made, lambda: make_neuron(kind)):
        torch.manual_seed(0)
        model = enliven(iso.create_model("ms_resnet8", width=8, T=2, neuron=spec)).eval()
        neurons = [m for m in model.modules() if isinstance(m, SpikingNeuron)]
        assert made not in neurons
        assert len(neurons) == len(set(neurons)) == 7
        assert all(neuron.rule == made.rule for neuron in neurons)
        logits.append(model(x))
    assert torch.equal(*logits)
    card = iso.model_card("ms_resnet8", neuron=made)
    assert (card.neuron, card.v_threshold) == ({"kind": type(made).__name__}, made.v_threshold)


def test_a_neuron_is_given_by_its_name_or_its_class(tmp_path):
    for spec in ("plif", iso.PLIF):
        model = iso.create_model("ms_resnet8", width=8, neuron=spec)
        assert isinstance(model.closing.spike, iso.PLIF)
    named = iso.create_model("ms_resnet8", width=8, neuron="plif")
    iso.save_pretrained(named, tmp_path / "named")
    assert json.loads((tmp_path / "named" / "config.json").read_text())["options"]["neuron"] == "plif"
    assert isinstance(iso.from_pretrained(tmp_path / "named").closing.spike, iso.PLIF)
    with pytest.raises(ConfigError, match=r"the model's options.neuron is .*PLIF.* which config.json cannot hold"):
        iso.save_pretrained(model, tmp_path / "object")


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("pliff", UnknownName, "unknown neuron 'pliff'; nearest: plif"),
        ("lif", ConfigError, "either decay or tau"),
        (3, ConfigError, r"a neuron is given as a name, as \{kind: name, ...\}, .* got 3$"),
        (dict, ConfigError, "got <class 'dict'>, which makes dict"),
    ],
)
def test_what_is_no_neuron_is_refused(spec, error, says):
    with pytest.raises(error, match=says):
        iso.create_model("ms_resnet8", neuron=spec)


NORMALISE = r", for images of 0 to 255 also / 255, and normalise them as in training$"


@pytest.mark.parametrize("call", ["training", "eval", "step"])
@pytest.mark.parametrize(
    ("model_dtype", "dtype", "says"),
    [
        (
            torch.float32,
            torch.uint8,
            r"in float32 and its input is uint8: call x.to\(torch.float32\)" + NORMALISE,
        ),
        (torch.float32, torch.int64, r"is int64: call x.to\(torch.float32\)" + NORMALISE),
        (torch.float32, torch.float64, r"is float64: call x.to\(torch.float32\)$"),
        (torch.float32, torch.float16, r"is float16: call x.to\(torch.float32\)$"),
        (torch.float64, torch.float32, r"computes in float64 and its input is float32: call x.to\(torch.float64\)$"),
    ],
)
def test_an_input_of_another_dtype_is_refused(call, model_dtype, dtype, says):
    model = iso.create_model("ms_resnet8").to(model_dtype).train(call == "training")
    with pytest.raises(ShapeError, match=says):
        (model.step if call == "step" else model)(torch.zeros(2, 3, 16, 16, dtype=dtype))


def test_an_input_of_another_device_or_kind_is_refused():
    model = iso.create_model("ms_resnet8")
    with pytest.raises(ShapeError, match=r"the model is on cpu and its input on meta: call x.to\('cpu'\)"):
        model(torch.zeros(2, 3, 16, 16, device="meta"))
    with pytest.raises(ShapeError, match="takes a tensor .* got ndarray: torch.as_tensor makes one"):
        model(np.zeros((2, 3, 16, 16), np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_takes_half_precision(dtype):
    with torch.autocast("cpu", torch.bfloat16):
        assert iso.create_model("ms_resnet8", T=2)(torch.zeros(2, 3, 16, 16, dtype=dtype)).shape == (2, 10)


def test_a_pruned_or_parametrised_stem_still_knows_its_dtype():
    model = iso.create_model("ms_resnet8")
    torch.nn.utils.parametrizations.weight_norm(model.stem.conv)
    with pytest.raises(ShapeError, match="is float64"):
        model(torch.zeros(2, 3, 16, 16, dtype=torch.float64))
