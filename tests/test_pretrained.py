"""Models in folders, as on the Hugging Face hub."""

import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import huggingface_hub
import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike import torch_version
from isospike.errors import CheckpointError, ConfigError, IsospikeWarning, MissingExtra, RunFailed, UnknownName

OPTIONS = {
    "small": {"width": 4},
    "changed": {"width": 4, "num_classes": 3, "in_channels": 1, "T": 2, "dropout": 0.1, "neuron": {"kind": "plif"}},
    "surrogate": {"width": 4, "neuron": {"surrogate": {"kind": "arctan", "alpha": 2.0}}, "tail_init": 0.1},
    "backbone": {"width": 4, "num_classes": 0},
}


def make(name="sew_resnet8", **options):
    torch.manual_seed(0)
    return enliven(iso.create_model(name, **{"width": 4, **options}))


@pytest.fixture
def folder(tmp_path):
    iso.save_pretrained(make(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["ms_resnet8", "vanilla_resnet8"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_is_saved_comes_back(tmp_path, name, options):
    model = make(name, **options).eval()
    iso.save_pretrained(model, tmp_path / "deep" / "model")
    again = iso.from_pretrained(str(tmp_path / "deep" / "model"))
    assert not again.training
    assert (again.topology, again.layout, again.T, again.options) == (
        model.topology,
        model.layout,
        model.T,
        model.options,
    )
    x = torch.randn(2, model.in_channels, 16, 16)
    assert torch.equal(again(x), model(x))


def test_the_folder_holds_two_files_and_says_what_is_in_them(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {
        "library_name": "isospike",
        "isospike_version": metadata.version("isospike"),
        "options": {"name": "sew_resnet8", "width": 4, "num_classes": 10, "in_channels": 3, "T": 4},
        "inputs": None,
        "initialised_from": None,
    }
    assert iso.from_pretrained(folder).initialised_from is None


def test_a_new_classifier_is_saved_as_it_is(tmp_path):
    model = make()
    model.reset_classifier(7)
    iso.save_pretrained(model, tmp_path)
    assert iso.from_pretrained(tmp_path).head.fc.out_features == 7


def test_options_can_be_changed_as_long_as_the_weights_fit(folder):
    assert iso.from_pretrained(folder, T=2, neuron={"v_threshold": 0.5}).T == 2
    with pytest.raises(
        CheckpointError, match=r"'stem.conv.weight' is \[4, 1, 3, 3\] in the model and \[4, 3, 3, 3\] in"
    ):
        iso.from_pretrained(folder, in_channels=1)
    with pytest.raises(CheckpointError, match=r"'stages.0.1.branch.conv1.weight' is not in .*model.safetensors"):
        iso.from_pretrained(folder, name="sew_resnet14")
    with pytest.raises(UnknownName, match="unknown option of create_model 'dropuot'; nearest: dropout"):
        iso.from_pretrained(folder, dropuot=0.1)


@pytest.mark.parametrize(
    "options", [{"features_only": True}, {"features_only": True, "out_indices": [1]}, {"out_indices": [1]}]
)
def test_feature_maps_are_taken_from_the_loaded_network(folder, options):
    with pytest.raises(
        ConfigError, match=r"^weights load into a whole network, .* iso.FeatureMaps\(iso.from_pretrained"
    ):
        iso.from_pretrained(folder, **options)
    assert iso.FeatureMaps(iso.from_pretrained(folder, features_only=False), [1]).feature_info.channels() == [4]
    with pytest.raises(
        ConfigError, match=r"^a card is that of a whole network, without features_only: .* feature_info"
    ):
        iso.model_card("ms_resnet8", **{"features_only": True, **options})


def test_another_number_of_classes_gets_a_new_classifier_which_is_said(folder):
    saved = iso.from_pretrained(folder)
    with pytest.warns(IsospikeWarning) as said:
        model = iso.from_pretrained(folder, num_classes=5)
    weights = folder / "model.safetensors"
    assert [str(w.message) for w in said] == [
        f"the classifier for 5 classes is new and untrained: that in {weights} is for 10"
    ]
    assert said[0].filename == __file__
    assert (model.head.fc.out_features, model.options["num_classes"], model.training) == (5, 5, False)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.forward_features(x), saved.forward_features(x))


def test_a_backbone_and_the_saved_number_of_classes_say_nothing(folder, recwarn):
    x = torch.randn(2, 3, 16, 16)
    saved = iso.from_pretrained(folder, num_classes=10)
    backbone = iso.from_pretrained(folder, num_classes=0)
    assert torch.equal(backbone(x), saved.forward_features(x).mean((-2, -1)).mean(0))
    assert not recwarn.list


INPUTS = iso.Inputs(16, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), tuple("abcdefghij"), resize=20)


def test_what_an_input_needs_is_saved(tmp_path):
    model = make()
    model.inputs = INPUTS
    iso.save_pretrained(model, tmp_path)
    assert iso.from_pretrained(tmp_path).inputs == INPUTS
    with pytest.warns(IsospikeWarning):
        assert iso.from_pretrained(tmp_path, num_classes=4).inputs == replace(INPUTS, classes=())


def test_a_folder_of_an_older_version_still_loads(tmp_path):
    iso.save_pretrained(make(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "inputs"}))
    assert iso.from_pretrained(tmp_path).inputs is None


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "inputs in .*config.json cannot be used"),
        ({**INPUTS.as_dict(), "sise": 3}, "'sise'"),
        ({**INPUTS.as_dict(), "size": 0}, "size of the inputs is a number of pixels from 1 to 10,000, got 0"),
        ({**INPUTS.as_dict(), "size": True}, "size of the inputs is a number of pixels from 1 to 10,000, got True"),
        ({**INPUTS.as_dict(), "resize": 15}, "resize of the inputs is a number of pixels from 16 to 10,000, got 15"),
        ({**INPUTS.as_dict(), "resize": 2**70}, "resize of the inputs is a number of pixels from 16 to 10,000, got 11"),
        ({**INPUTS.as_dict(), "mean": 0.5}, "mean of the inputs is a number for each channel, got 0.5"),
        ({**INPUTS.as_dict(), "mean": []}, "mean of the inputs is a number for each channel"),
        ({**INPUTS.as_dict(), "mean": ["a", 1, 1]}, "mean of the inputs is a number for each channel"),
        ({**INPUTS.as_dict(), "std": [1.0, 0.0, 1.0]}, "std greater than 0"),
        ({**INPUTS.as_dict(), "std": [1.0]}, "one number per channel"),
        ({**INPUTS.as_dict(), "classes": "abc"}, "classes of the inputs are names, got 'abc'"),
        ({**INPUTS.as_dict(), "classes": [1, 2]}, "classes of the inputs are names"),
    ],
)
def test_inputs_out_of_range_are_refused(folder, inputs, says):
    rewrite(folder, inputs=inputs)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{says}[^\n]*$"):
        iso.from_pretrained(folder)


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"library_name": "timm"}, r"config.json is of timm, not of isospike"),
        ({"library_name": None}, r"config.json is of another library, not of isospike"),
        ({"options": None}, r"config.json names no model"),
        ({"options": {"width": 4}}, r"config.json names no model"),
        ({"options": {"name": "sew_resnet8", "widht": 4}}, r"in .*config.json 'widht'; nearest: width"),
        ({"options": {"name": "sew_resnet8", "width": 8}}, r"config.json and model.safetensors in .* different saves"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, changes, says):
    rewrite(folder, **changes)
    with pytest.raises((CheckpointError, UnknownName), match=rf"^[^\n]*{says}[^\n]*$"):
        iso.from_pretrained(folder)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"width": "wide"}, "'str'"),
        ({"neuron": "lift"}, "unknown neuron 'lift'; nearest: lif, plif"),
        ({"neuron": {"a\nb": 1}}, "a b"),
        ({"T": 0}, "T, the number of time steps, must be at least 1, got 0"),
        ({"width": 2**70}, "."),
    ],
)
def test_options_that_make_no_model_are_refused_with_their_file(folder, option, says):
    with pytest.raises(
        CheckpointError, match=rf"^create_model makes no model of [^\n]*config.json: [^\n]*{says}[^\n]*$"
    ):
        iso.from_pretrained(folder, **option)


def test_a_network_of_another_size_than_its_weights_gets_no_memory(folder):
    with pytest.raises(CheckpointError, match=r"'head.fc.weight' is \[10, 4000000\] in the model"):
        iso.from_pretrained(folder, width=1_000_000)  # its last stage alone would have 600 terabytes


def test_missing_and_damaged_files_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        iso.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors does not exist"):
        iso.from_pretrained(folder)
    for content in ("{", "[1]"):
        (folder / "config.json").write_text(content)
        with pytest.raises((ConfigError, CheckpointError), match=r"config.json (cannot be read as JSON|is of another)"):
            iso.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json does not exist: save_pretrained writes it"):
        iso.from_pretrained(folder)


def test_a_model_that_a_config_cannot_build_again_is_not_saved(tmp_path):
    model = iso.create_model("ms_resnet8", neuron={"surrogate": iso.Rectangle(1.0)})
    with pytest.raises(ConfigError, match=r"the model's options.neuron.surrogate is Rectangle\(.*cannot hold"):
        iso.save_pretrained(model, tmp_path / "x")
    own = iso.SpikingResNet(model.topology, model.layout, num_classes=10)
    with pytest.raises(ConfigError, match="not made by create_model"):
        iso.save_pretrained(own, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match=r"cannot write .*file"):
        iso.save_pretrained(make(), tmp_path / "file")
    (folder / "config.json.part").mkdir()  # where the half-written file would stand
    with pytest.raises(RunFailed, match=r"cannot write .*config.json"):
        iso.save_pretrained(make(), folder)
    assert json.loads((folder / "config.json").read_text())["library_name"] == "isospike"


def test_an_id_is_fetched_from_the_hub(folder, monkeypatch, tmp_path):
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options["revision"], sorted(options["allow_patterns"])))
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = iso.from_pretrained("someone/sew-resnet8.small", revision="v1", T=3)
    assert asked == [("someone/sew-resnet8.small", "v1", ["config.json", "model.safetensors"])]
    assert model.T == 3
    Path("someone/here").mkdir(parents=True)
    iso.save_pretrained(make(num_classes=2), "someone/here")
    assert iso.from_pretrained("someone/here").head.fc.out_features == 2
    assert len(asked) == 1  # a folder that is here is not looked for elsewhere


def test_the_hub_refuses_in_one_sentence(monkeypatch, tmp_path):

    def snapshot_download(repo_id, **options):
        raise OSError("404 Client Error.\n\nRepository Not Found\nIf you are trying ...")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        CheckpointError, match=r"^'some/one' is no folder here, and the hub does not give it: 404 Cl.*r\.$"
    ):
        iso.from_pretrained("some/one")
    for source in ("nowhere", "a/b/c", "/abs/path", tmp_path / "nowhere", Path("some/one")):
        with pytest.raises(CheckpointError, match="is no folder here and no id owner/name"):
            iso.from_pretrained(source)
    with pytest.raises(CheckpointError, match="revision='v1' is for the hub"):
        iso.from_pretrained(tmp_path, revision="v1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingExtra, match=r"'some/one', which is no folder here, needs huggingface_hub.*isospike\[hub\]"
    ):
        iso.from_pretrained("some/one")


def test_a_folder_of_a_newer_version_says_so_where_it_cannot_be_read(tmp_path):
    iso.save_pretrained(iso.create_model("ms_resnet8"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["isospike_version"] = "99.0.1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    iso.from_pretrained(tmp_path)  # what can be read is read
    config["options"]["warp"] = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownName, match=r"'warp'.*; .* was written by isospike 99.0.1, and this is .*install -U"):
        iso.from_pretrained(tmp_path)
    config["isospike_version"] = "0.0.1"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownName, match=r"'warp'") as found:
        iso.from_pretrained(tmp_path)
    assert "written by" not in str(found.value)


def test_an_older_pytorch_is_refused_in_one_sentence():
    torch_version.check("2.9.0+cu128")
    torch_version.check("3.0.0a0")
    with pytest.raises(ImportError, match=r"needs PyTorch 2.9 or newer, and this is 2.8.1: pip install -U torch"):
        torch_version.check("2.8.1")
