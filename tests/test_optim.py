import math

import pytest
import torch

import isospike as iso
from isospike.layers import BatchNorm
from isospike.neurons import Neuron
from isospike.optimizers import OPTIMIZERS, AdamWSpec, SGDSpec, build_optimizer
from isospike.schedules import SCHEDULES, ConstantSchedule, CosineSchedule, StepSchedule

EVERY = pytest.mark.parametrize("kind", OPTIMIZERS)


@pytest.mark.parametrize("no_decay", [(), ("norm",), ("bias",), ("neuron",), ("norm", "bias", "neuron")], ids=str)
@EVERY
def test_every_parameter_is_in_the_group_that_its_layer_says(kind, no_decay):
    model = iso.create_model("ms_resnet8", neuron={"kind": "plif"})
    spec = OPTIMIZERS[kind](kind=kind, lr=0.1, weight_decay=0.5, no_decay=no_decay)
    optimizer = build_optimizer(spec, model)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            free = (
                ("norm" in no_decay and isinstance(module, BatchNorm))
                or ("neuron" in no_decay and isinstance(module, Neuron))
                or ("bias" in no_decay and name == "bias" and not isinstance(module, BatchNorm))
            )
            assert decay[parameter] == (0.0 if free else 0.5), name


def test_options_reach_the_optimiser():
    model = torch.nn.Linear(2, 2)
    sgd = build_optimizer(SGDSpec(kind="sgd", lr=0.3, momentum=0.8, nesterov=True), model)
    assert {k: sgd.defaults[k] for k in ("lr", "momentum", "nesterov")} == {
        "lr": 0.3,
        "momentum": 0.8,
        "nesterov": True,
    }
    adamw = build_optimizer(AdamWSpec(kind="adamw", lr=0.3, betas=(0.8, 0.9), eps=1e-6), model)
    assert [adamw.defaults[key] for key in ("lr", "betas", "eps")] == [0.3, (0.8, 0.9), 1e-6]


@EVERY
def test_moments_are_what_the_optimiser_keeps_for_each_parameter(kind):
    row = OPTIMIZERS[kind]
    plain = {"momentum": 0.0} if "momentum" in row.model_fields else {}
    for spec in (row(kind=kind, lr=0.1), row(kind=kind, lr=0.1, **plain)):
        model = torch.nn.Linear(3, 2)
        optimizer = build_optimizer(spec, model)
        model(torch.ones(1, 3)).sum().backward()
        before = model.weight.detach().clone()
        optimizer.step()
        assert not model.weight.equal(before)
        for parameter in model.parameters():
            kept = [v for v in optimizer.state[parameter].values() if getattr(v, "shape", None) == parameter.shape]
            assert len(kept) == spec.moments


REQUIRED = {"steps": {"milestones": (2, 4)}}  # options without a default


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_warms_up_and_never_exceeds_the_rate(kind):
    found = rates(SCHEDULES[kind](kind=kind, warmup_epochs=1, **REQUIRED.get(kind, {})))
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert all(0 < rate <= 2.0 for rate in found)


def rates(schedule, steps_per_epoch=4, epochs=5, lr=2.0):
    return [schedule.learning_rate(lr, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


def test_cosine_by_epoch_is_that_of_the_sources():
    """lr_k = lr (1 + cos(pi k / E)) / 2 for k = 0..E-1: no epoch at 0."""
    found = rates(CosineSchedule(kind="cosine", every="epoch"))
    expected = [2 * (1 + math.cos(math.pi * k / 5)) / 2 for k in range(5) for _ in range(4)]
    assert found == pytest.approx(expected)
    assert found[-1] > 0


def test_cosine_by_step_with_warm_up_and_floor():
    found = rates(CosineSchedule(kind="cosine", warmup_epochs=1.5, min_lr=0.5))
    assert found[:6] == pytest.approx([2 * (k + 1) / 6 for k in range(6)])
    expected = [0.5 + 1.5 * (1 + math.cos(math.pi * k / 14)) / 2 for k in range(14)]
    assert found[6:] == pytest.approx(expected)


def test_cosine_by_epoch_after_whole_epochs_of_warm_up():
    found = rates(CosineSchedule(kind="cosine", every="epoch", warmup_epochs=1))
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[4:] == pytest.approx([2 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4) for _ in range(4)])


def test_steps_and_constant():
    found = rates(StepSchedule(kind="steps", milestones=(2, 4), gamma=0.1))
    assert found == pytest.approx([2.0] * 8 + [0.2] * 8 + [0.02] * 4)
    assert rates(ConstantSchedule(kind="constant", warmup_epochs=0.5)) == pytest.approx([1.0] + [2.0] * 19)
