import math

import pytest
import torch

import isospike as iso
from isospike.config import AdamWSpec, ConstantSchedule, CosineSchedule, SGDSpec, StepSchedule
from isospike.layers import BatchNorm
from isospike.neurons import Neuron
from isospike.optimizers import build_optimizer, learning_rate


@pytest.mark.parametrize("no_decay", [(), ("norm",), ("bias",), ("neuron",), ("norm", "bias", "neuron")], ids=str)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_every_parameter_is_in_the_group_that_its_layer_says(kind, no_decay):
    model = iso.create_model("ms_resnet8", neuron={"kind": "plif"})
    spec = (SGDSpec if kind == "sgd" else AdamWSpec)(kind=kind, lr=0.1, weight_decay=0.5, no_decay=no_decay)
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


def rates(schedule, steps_per_epoch=4, epochs=5, lr=2.0):
    return [learning_rate(schedule, lr, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


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
