"""Norms with weights and statistics for every time step."""

import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError, ShapeError
from isospike.layers import BatchNorm, PerStepNorm

T = 3


def model_of(name="da_nsc_resnet8", **options):
    return enliven(iso.create_model(name, T=T, per_step_norm=True, **options))


def test_every_step_has_its_own_norm():
    norm = enliven(PerStepNorm(T, 4))
    x = torch.randn(T, 5, 4, 6, 6)
    y = norm(x, 0)
    for t in range(T):
        alone = BatchNorm(4)
        alone.load_state_dict(norm[t].state_dict())
        assert torch.equal(y[t], alone(x[t]))
    norm.eval()
    assert torch.equal(norm(x[1:], 1), norm(x, 0)[1:])


@pytest.mark.parametrize("name", [f"{name}_resnet8" for name in iso.TOPOLOGIES])
def test_streaming_and_folding_time_agree(name):
    model = model_of(name, num_classes=5).double().eval()
    clip = torch.randn(T, 2, 3, 32, 32, dtype=torch.float64)
    whole = model(clip, per_step=True)
    state, streamed = None, []
    for x in clip:
        logits, state = model.step(x, state)
        streamed.append(logits)
    assert torch.equal(torch.stack(streamed), whole)
    model.training = True
    torch.testing.assert_close(model(clip, per_step=True), whole)
    with pytest.raises(ShapeError, match="know 3 time steps, and the stream has had them all"):
        model.eval().step(clip[0], state)


def test_they_are_everywhere_but_in_the_stem_and_all_learn():
    model = model_of().train()
    per_step = [m for m in model.modules() if isinstance(m, PerStepNorm)]
    assert len(per_step) == 3 * 2 + 1
    assert isinstance(model.stem.norm, BatchNorm)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(norm.weight.grad.abs().sum() > 0 for each in per_step for norm in each)
    shared = iso.model_card("da_nsc_resnet8", T=T)
    card = iso.model_card("da_nsc_resnet8", T=T, per_step_norm=True)
    channels = sum(norm[0].num_features for norm in per_step)
    assert card.parameters - shared.parameters == 2 * (T - 1) * channels
    assert (card.T, card.neurons, card.macs) == (T, shared.neurons, shared.macs)


def test_another_number_of_steps_is_refused():
    model = model_of()
    with pytest.raises(ShapeError, match="know 3 time steps, 5 were asked for: create it with T=5, or with norms that"):
        model(torch.randn(2, 3, 32, 32), T=5)
    with pytest.raises(ShapeError, match="2 were asked for"):
        model.eval()(torch.randn(2, 2, 3, 32, 32))
    with pytest.raises(ConfigError, match="state is of another model"):
        model.step(
            torch.randn(1, 3, 32, 32), iso.create_model("da_nsc_resnet8").eval().step(torch.zeros(1, 3, 32, 32))[1]
        )


def test_and_starts_neutral_at_every_step():
    model = iso.create_model("sew_resnet8", T=T, per_step_norm=True, join="and", tail_init=0)
    tail = model.stages[0][0].branch.norm2
    assert all((norm.bias > 1 - 1e-6).all() for norm in tail)
