"""A training step put to the device whole, and figures that are read when the next step is under way."""

import json

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import isospike as iso
from isospike.errors import ConfigError, RunFailed
from isospike.optimizers import AdamWSpec, SGDSpec
from isospike.train.readback import Readback
from isospike.train.step import step_if
from isospike.weights import load_tensors
from test_trainer import VARIANTS, Poison, new_trainer, numbers, resumed_trainer, tiny

ASKING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select"}  # wait for the values of a device


class NobodyAsks(TorchDispatchMode):
    """Refuses operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ASKING:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


SGD = SGDSpec(kind="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
ADAMW = AdamWSpec(kind="adamw", lr=0.01, weight_decay=0.1)
SPECS = pytest.mark.parametrize("spec", [SGD, SGD.model_copy(update={"momentum": 0.0, "nesterov": False}), ADAMW])


def with_fused_optimizer(trainer, spec=SGD):
    """As on a GPU."""
    groups = [{"params": list(trainer.model.parameters()), "weight_decay": spec.weight_decay}]
    trainer.learner.optimizer = spec.build(groups, lr=torch.tensor(spec.lr), fused=True)
    return trainer


@SPECS
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "fp16"])  # the scaler needs a GPU for that
def test_no_part_of_a_step_waits_for_the_device(tmp_path, variant, spec):
    trainer = with_fused_optimizer(new_trainer(tiny(**VARIANTS[variant]), tmp_path / "run"), spec)
    batch = trainer._augmented(next(trainer.train_loader.epoch(0)))
    trainer.model.train()
    before = [p.clone() for p in trainer.model.parameters()]
    with iso.use_backend("reference"), NobodyAsks():
        figures = trainer.step(*batch, stop=False)
    assert figures.shape == (6,)
    assert figures.isfinite().all()
    assert any(not torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))


def test_who_asks_is_found_out():
    with NobodyAsks(), pytest.raises(AssertionError, match="_local_scalar_dense.default waits"):
        torch.ones(()).item()


def on_host(spec, groups):
    if spec.kind == "adamw":
        return torch.optim.AdamW(groups, lr=spec.lr)
    return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov)


@SPECS
@pytest.mark.parametrize("bad", [0, 2])
def test_a_step_that_is_not_finite_leaves_everything_alone_on_host_and_device(spec, bad):
    """With one more step between the others, whose gradient is not finite; the first one is a case of its own."""
    gradients = [torch.randn(7) for _ in range(4)]
    steps = [(g, True) for g in gradients]
    steps.insert(bad, (torch.full((7,), float("nan")), False))
    found = {}
    for name, given in {"without": [s for s in steps if s[1]], "with": steps}.items():
        for place in ("host", "device"):
            weight = nn.Parameter(torch.linspace(-1, 1, 7))
            groups = [{"params": [weight], "weight_decay": spec.weight_decay}]
            optimizer = (
                on_host(spec, groups) if place == "host" else spec.build(groups, lr=torch.tensor(spec.lr), fused=True)
            )
            for gradient, finite in given:
                weight.grad = gradient.clone()
                step_if(torch.tensor(finite), optimizer)
            found[name, place] = weight.detach()
    for place in ("host", "device"):
        assert torch.equal(found["with", place], found["without", place])
    torch.testing.assert_close(found["with", "device"], found["with", "host"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_read_one_step_late_is_the_same_run(tmp_path, variant):
    config = tiny(**VARIANTS[variant])
    new_trainer(config, tmp_path / "at_once").fit()
    for stop in (2, 5, None):
        trainer = resumed_trainer(tmp_path / "late") if stop != 2 else new_trainer(config, tmp_path / "late")
        trainer.readback.behind = 1
        trainer.fit(max_steps=stop)
    assert numbers(tmp_path / "late") == numbers(tmp_path / "at_once")
    flows = [(tmp_path / run / "flow.jsonl").read_text() for run in ("late", "at_once")]
    assert flows[0] == flows[1]
    weights = [load_tensors(tmp_path / run / "model.safetensors")[0] for run in ("late", "at_once")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize(("place", "what"), [("closing.spike", "loss"), ("stages.1.0.branch.norm1", "gradient")])
def test_read_late_a_number_that_is_not_finite_still_has_its_step_its_place_and_the_weights_before(
    tmp_path, place, what
):
    trainer = with_fused_optimizer(new_trainer(tiny(), tmp_path / "run"))
    trainer.readback.behind = 1
    trainer.fit(max_steps=2)
    owner, name = place.rsplit(".", 1)
    setattr(trainer.model.get_submodule(owner), name, Poison())
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(RunFailed, match=rf"the {what} is not finite at step 3: .*'{place}' \(Poison\)"):
        trainer.fit()
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))
    assert load_tensors(trainer.run.checkpoint("last"))[1]["state"]["step"] == 2


def test_figures_come_in_order_and_as_late_as_asked():
    readback = Readback(behind=2)
    seen = []
    for number in range(4):
        readback.put(number, torch.tensor([float(number)]))
        seen.append(list(readback.ready()))
    assert seen == [[], [], [(0, [0.0])], [(1, [1.0])]]
    assert list(readback.all()) == [(2, [2.0]), (3, [3.0])]
    assert list(readback.all()) == []


def test_a_cuda_graph_is_refused_where_there_can_be_none(tmp_path):
    with pytest.raises(ConfigError, match="train.cuda_graph captures the steps of one process on a GPU, .* 1 on cpu"):
        new_trainer(tiny(train={"cuda_graph": True}), tmp_path / "run")
    with pytest.raises(ConfigError, match="cuda_graph captures steps in fp32 or bf16"):
        tiny(train={"cuda_graph": True, "precision": "fp16"})


@SPECS
def test_a_fused_optimiser_goes_on_from_a_checkpoint(tmp_path, spec):
    config = tiny(optim=json.loads(spec.model_dump_json()))
    with_fused_optimizer(new_trainer(config, tmp_path / "whole"), spec).fit()
    with_fused_optimizer(new_trainer(config, tmp_path / "parts"), spec).fit(max_steps=5)
    trainer = with_fused_optimizer(new_trainer(config, tmp_path / "other"), spec)
    trainer.run = type(trainer.run)(tmp_path / "parts")
    trainer.resume()
    trainer.fit()
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
