"""What of a captured step a CPU can show: nothing is left of the warm-up, and what cannot be captured is refused."""

import pytest
import torch

import isospike as iso
from isospike.errors import ConfigError, ShapeError
from isospike.train import graphs


def make():
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", T=2)
    batch = torch.randn(4, 3, 16, 16), torch.arange(4)
    return model, batch, lambda x, y: torch.nn.functional.cross_entropy(model(x), y)


def train_step(optimizer, loss_of, batch):
    optimizer.zero_grad()
    loss = loss_of(*batch)
    loss.backward()
    optimizer.step()
    return loss.detach()


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1), momentum=0.9, fused=True),
    lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), fused=True),
]


@pytest.mark.parametrize("build", OPTIMIZERS)
@pytest.mark.parametrize("done", [0, 2])
def test_nothing_is_left_of_steps_that_are_taken_back(build, done):
    """Whether the optimiser has its state already or gets it in the warm-up, training then goes on as without it."""
    losses = []
    for warm_up in (False, True):
        model, batch, loss_of = make()
        optimizer = build(model.parameters())
        for _ in range(done):
            train_step(optimizer, loss_of, batch)
        if warm_up:
            with graphs.as_before(model, optimizer):
                for _ in range(graphs.WARM_UP):
                    train_step(optimizer, loss_of, batch)
        losses.append([train_step(optimizer, loss_of, batch).item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_a_step_on_a_cpu_is_refused():
    model, batch, loss_of = make()
    with pytest.raises(ConfigError, match="captured on a CUDA device, and model and inputs are on cpu"):
        graphs.CapturedStep(model, OPTIMIZERS[0](model.parameters()), loss_of, batch)


BAD = [
    ({"lr": torch.tensor(0.1)}, "built with fused=True or capturable=True"),
    ({"lr": 0.1, "fused": True}, "is a tensor on the device, got 0.1"),
    ({"lr": torch.tensor(0.1), "fused": True, "momentum": 0.9, "dampening": 0.5}, "dampening"),
]


@pytest.mark.parametrize(("options", "reason"), BAD)
def test_an_optimiser_that_cannot_be_captured_is_refused(options, reason):
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ConfigError, match=reason):
        graphs._check_optimizer(torch.optim.SGD([weight], **options))


def test_inputs_unlike_those_of_the_capture_are_refused():
    with pytest.raises(ShapeError, match=r"captured for \[2, 3\] torch.float32, got \[2, 4\] torch.float32"):
        graphs.check_like((torch.ones(2, 4),), (torch.ones(2, 3),))
    graphs.check_like((torch.ones(2, 3),), (torch.zeros(2, 3),))
