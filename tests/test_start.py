"""What a run starts from: weights of another training, parts that stay as they are, classes that weigh more."""

import json

import pytest
import torch

import isospike as iso
from helpers import TINY, enliven
from isospike.analysis import gradient_norms
from isospike.data import Augment, load_dataset
from isospike.errors import CheckpointError, ConfigError
from isospike.layers import BatchNorm
from isospike.run_folder import RunFolder
from isospike.train.build import build_model, build_train_loader
from isospike.train.freezing import freeze
from isospike.train.initial import load_initial
from isospike.weights import load_tensors
from test_cli import call
from test_trainer import new_trainer, numbers, resumed_trainer, tiny

OPTIONS = {"num_classes": 3, "in_channels": 1, "width": 4}


def trained(**options):
    return enliven(iso.create_model("ms_resnet8", **{**OPTIONS, **options}))


def as_pickle(model, folder):
    torch.save(model.state_dict(), folder / "x.pth")
    return folder / "x.pth"


def as_pretrained(model, folder):
    iso.save_pretrained(model, folder / "x")
    return folder / "x"


def as_file(model, folder):
    return as_pretrained(model, folder) / "model.safetensors"


@pytest.mark.parametrize("save", [as_pickle, as_pretrained, as_file])
def test_weights_come_from_files_and_folders(tmp_path, save):
    model, source = iso.create_model("ms_resnet8", **OPTIONS), trained()
    said = load_initial(model, str(save(source, tmp_path)))
    assert said.startswith(f"training starts from the weights in {tmp_path}")
    assert "new classifier" not in said
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_starts_from_a_run(tmp_path, ema):
    first = new_trainer(tiny(train={"ema": ema} if ema else {}), tmp_path / "first")
    first.fit(max_steps=5)
    config = tiny(train={"weights": str(tmp_path / "first")})
    second = new_trainer(config, tmp_path / "second")
    second.start()
    source = first.learner.average.module if ema else first.model
    for name, tensor in source.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name
    assert RunFolder(tmp_path / "second").read_config().train.weights == str(tmp_path / "first")


@pytest.mark.parametrize("before", [10, 0])
def test_a_classifier_of_other_classes_is_new_and_that_is_said(tmp_path, before):
    source = trained(num_classes=before)
    model = iso.create_model("ms_resnet8", **OPTIONS)
    classifier = model.head.fc.weight.clone()
    said = load_initial(model, str(as_pretrained(source, tmp_path)))
    assert said.endswith(f"with a new classifier: 3 classes, there {before}")
    assert torch.equal(model.head.fc.weight, classifier)
    assert torch.equal(model.stem.conv.weight, source.stem.conv.weight)


@pytest.mark.parametrize(
    ("options", "place"), [({"width": 8}, "head.fc.weight"), ({"in_channels": 3}, "stem.conv.weight")]
)
def test_whatever_else_does_not_fit_is_refused(tmp_path, options, place):
    model = iso.create_model("ms_resnet8", **OPTIONS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"do not fit the model: '{place}' is .* in the model and"):
        load_initial(model, str(as_pretrained(trained(**options), tmp_path)))
    deeper = iso.create_model("ms_resnet14", **OPTIONS)
    with pytest.raises(CheckpointError, match=r"'stages.0.1.branch.conv1.weight' is not in"):
        load_initial(deeper, str(as_pretrained(trained(), tmp_path)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_its_weights_again(tmp_path):
    config = tiny(train={"weights": str(as_pretrained(trained(), tmp_path))})
    whole = new_trainer(config, tmp_path / "whole")
    whole.start()
    whole.fit(max_steps=3)
    new_trainer(config, tmp_path / "killed")
    resumed_trainer(tmp_path / "killed").fit(max_steps=3)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


SYNTHETIC = "data={kind: synthetic, classes: 3, channels: 1, size: 8, train: 64, test: 30}"


def test_the_command_line_says_where_a_run_started(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    call("train", *TINY, "--set", SYNTHETIC, "--max-steps", 1, "--out", first)
    other = SYNTHETIC.replace("classes: 3", "classes: 5")
    words = ["--set", other, "--weights", first, "--set", "train.freeze=[backbone]", "--out", second]
    capsys.readouterr()
    call("train", *TINY, *words, "--max-steps", 2)
    said = " ".join(capsys.readouterr().out.split())
    assert f"training starts from the weights in {first}/checkpoints/last.safetensors, with a new classifier" in said
    assert "parameters (325 of them learn)" in said
    assert RunFolder(second).read_config().train.weights == str(first)
    begin, end = (load_tensors(folder / "checkpoints" / "last.safetensors")[0] for folder in (first, second))
    kept = [name for name in begin if name.startswith("model.") and ".head." not in name]
    assert len(kept) > 30
    assert all(torch.equal(begin[name], end[name]) for name in kept)


def test_a_sweep_starts_every_cell_from_the_weights(tmp_path):
    first = tmp_path / "first"
    call("train", *TINY, "--set", SYNTHETIC, "--max-steps", 1, "--out", first)
    words = [*TINY[4:], "--set", SYNTHETIC, "--set", "train.epochs=1", "--set", f"train.weights={first}"]
    axes = ["--topologies", "ms", "--depths", "8", "--seeds", "0,1", "--jobs", "1"]
    call("sweep", "--recipe", "digits_ms_resnet20", *axes, *words, "--out", tmp_path / "sweep")
    for seed in (0, 1):
        run = RunFolder(tmp_path / "sweep" / f"ms_resnet8-seed{seed}")
        config = run.read_config()
        dataset = load_dataset(config.data)
        model = build_model(config, num_classes=3, in_channels=1)
        load_initial(model, str(first))
        batch = next(build_train_loader(config, dataset).epoch(0))
        images, _ = Augment(config.augment, dataset.mean, dataset.std, 3).train(batch.images, batch.labels, batch.seed)
        expected = gradient_norms(model, images, batch.labels, seed=seed).as_dict()
        assert run.read_analysis("gradients")["untrained"] == json.loads(json.dumps(expected))


# Parts that stay ---------------------------------------------------------------------------------------------------


def parts_of(model, part):
    """Names of the parameters in a part, by the way that names are built."""
    prefixes = {"stem": ("stem.", "opening."), "backbone": ("stem.", "opening.", "stages.", "closing.")}
    prefix = prefixes.get(part) or (f"stages.{int(part.removeprefix('stage')) - 1}.",)
    return {name for name in model.state_dict() if name.startswith(prefix)}


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
@pytest.mark.parametrize("parts", [("stem",), ("stage2",), ("stem", "stage1"), ("backbone",)], ids="-".join)
def test_what_is_frozen_stays_and_the_rest_learns_as_without(each_backend, topology, parts):
    """The gradients of the rest are those of a network that is not frozen, with these norms in eval mode."""
    gradients = []
    for frozen in (True, False):
        torch.manual_seed(0)
        model = enliven(iso.create_model(f"{topology}_resnet8", width=8, num_classes=3, T=2)).train()
        names = set().union(*(parts_of(model, part) for part in parts))
        if frozen:
            norms = freeze(model, parts)
            assert {n for n, p in model.named_parameters() if not p.requires_grad} == names & {
                n for n, _ in model.named_parameters()
            }
        else:
            norms = [m for n, m in model.named_modules() if isinstance(m, BatchNorm) and f"{n}.running_mean" in names]
        for norm in norms:
            norm.eval()
        before = {name: model.state_dict()[name].clone() for name in names}
        logits = model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
        logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if n not in names})
        assert all(torch.equal(before[name], model.state_dict()[name]) for name in names)
        assert frozen == all(p.grad is None for n, p in model.named_parameters() if n in names)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("memory", ["fast", "lean", "leanest"])
@pytest.mark.parametrize("optim", [{"kind": "sgd", "lr": 0.1, "weight_decay": 0.1}, {"kind": "adamw", "lr": 0.1}])
def test_a_run_leaves_its_frozen_parts_alone_through_tests_and_stops(tmp_path, memory, optim):
    source = as_pretrained(trained(), tmp_path)
    options = {"weights": str(source), "freeze": ["stem", "stage1"], "memory": memory, "ema": 0.5, "accumulate": 2}
    config = tiny(train=options, optim=optim)
    whole = new_trainer(config, tmp_path / "whole")
    whole.start()
    whole.fit()
    part = new_trainer(config, tmp_path / "parts")
    part.start()
    part.fit(max_steps=8)
    resumed_trainer(tmp_path / "parts").fit()
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")
    begin, end = (load_tensors(folder / "model.safetensors")[0] for folder in (source, tmp_path / "whole"))
    frozen = parts_of(whole.model, "stem") | parts_of(whole.model, "stage1")
    assert {name for name in begin if torch.equal(begin[name], end[name])} == frozen
    assert whole.state.epoch == 3


def test_freezing_without_weights_is_said(tmp_path):
    trainer = new_trainer(tiny(train={"freeze": ["stem"]}), tmp_path / "run")
    said = []
    trainer.display.say = said.append
    trainer.start()
    assert said == ["train.freeze without train.weights: what is frozen keeps its random start"]


def test_a_stage_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="train.freeze names stage4, and the model has 3 stages"):
        freeze(iso.create_model("ms_resnet8"), ["stem", "stage4"])


# Classes that weigh more -------------------------------------------------------------------------------------------


def test_class_weights_are_those_of_the_training_images(tmp_path):
    config = tiny(objective={"kind": "cross_entropy", "class_weights": [1, 2, 3]})
    trainer = new_trainer(config, tmp_path / "run")
    labels = load_dataset(config.data).train.labels
    weights = torch.tensor([1.0, 2, 3]) / torch.tensor([1.0, 2, 3])[labels].mean()
    logits = torch.randn(2, 3, 3)
    by_hand = -(weights * logits.mean(0).log_softmax(-1).diagonal()).mean()
    torch.testing.assert_close(trainer.step.objective(logits, torch.arange(3)), by_hand)


@pytest.mark.parametrize(
    "parts",
    [
        {"train": {"sampling": "balanced", "accumulate": 2}},
        {"train": {"sampling": [1, 5, 2]}, "objective": {"kind": "tet", "class_weights": "balanced"}},
        {"objective": {"kind": "cross_entropy", "class_weights": "balanced"}, "augment": {"mixup": 0.4}},
    ],
    ids=["sampled", "both", "mixed"],
)
def test_weighted_runs_are_resumed_to_the_same_bits(tmp_path, parts):
    config = tiny(**parts)
    new_trainer(config, tmp_path / "whole").fit()
    new_trainer(config, tmp_path / "parts").fit(max_steps=5)
    resumed_trainer(tmp_path / "parts").fit()
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    new_trainer(tiny(), tmp_path / "plain").fit()
    assert numbers(tmp_path / "plain") != numbers(tmp_path / "whole")


def test_every_user_of_the_first_batch_sees_the_one_that_is_trained_on(tmp_path):
    config = tiny(train={"sampling": [1, 50, 1]})
    trainer = new_trainer(config, tmp_path / "run")
    batch, own = (
        next(loader.epoch(0)) for loader in (build_train_loader(config, trainer.dataset), trainer.train_loader)
    )
    assert torch.equal(batch.indices, own.indices)
    assert (batch.labels == 1).float().mean() > 0.7
