import pytest
import torch

from helpers import SPIKING, STEPPING, dyadic, make_neuron
from isospike.errors import ConfigError, UnknownName
from isospike.neurons import IF, ILIF, LIF, MLF, NEURONS, PLIF
from isospike.ops import leaky_fire
from isospike.surrogates import Arctan, Sigmoid

pytestmark = pytest.mark.usefixtures("each_backend")


def test_coefficients_by_hand():
    assert IF().coefficients() == (1, 1)
    assert LIF(decay=0.25).coefficients() == (0.25, 1)
    assert LIF(tau=4.0).coefficients() == (0.75, 0.25)
    assert LIF(tau=4.0, decay_input=False).coefficients() == (0.75, 1)
    decay, gain = PLIF(tau=4.0).coefficients()
    torch.testing.assert_close((decay.item(), gain.item()), (0.75, 0.25))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {"reset": reset}) for kind in STEPPING for reset in ("to_value", "subtract")]
    + [(kind, {}) for kind in SPIKING if kind not in STEPPING],
)
def test_a_neuron_is_its_row_of_the_recurrence(kind, options):
    neuron = make_neuron(kind, v_threshold=0.5, **options)
    decay, gain = neuron.coefficients()
    x, v = dyadic(5, 2, 7), dyadic(*neuron.rule.state_shape((2, 7)))
    expected = leaky_fire(x, v, decay=decay, gain=gain, rule=neuron.rule)
    assert all(torch.equal(a, b) for a, b in zip(neuron(x, v), expected, strict=True))


@pytest.mark.parametrize("kind", NEURONS)
def test_every_forward_starts_from_rest_and_leaves_nothing_behind(kind):
    neuron = make_neuron(kind)
    x = torch.rand(4, 2, 3) * 2
    first, second = neuron(x)[0], neuron(x)[0]
    assert first.max() <= (neuron.levels or first.max())
    assert torch.equal(first, second)
    neuron(torch.rand(4, 9, 3))  # another batch size right after
    assert not list(neuron.buffers())
    assert neuron.state_dict().keys() == dict(neuron.named_parameters()).keys()


@pytest.mark.parametrize("kind", STEPPING)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", [{"reset": "subtract"}, {"v_reset": 0.0}, {"v_reset": -0.5}], ids=str)
def test_the_current_to_fire_fires_at_every_step_and_half_of_it_does_not(kind, strict, reset):
    neuron = make_neuron(kind, v_threshold=0.75, strict=strict, **reset)
    current = torch.as_tensor(neuron.current_to_fire())
    assert neuron((current * torch.ones(6, 1, 1)).detach())[0].sum() == 6
    assert neuron((current * torch.ones(1, 1, 1)).detach() / 2)[0].sum() == 0


@pytest.mark.parametrize("kind", sorted(set(NEURONS) - set(STEPPING)))
def test_the_current_to_fire_gives_one_at_every_step(kind):
    neuron = make_neuron(kind, **({"v_threshold": 0.75} if kind in SPIKING else {}))
    assert (neuron(neuron.current_to_fire() * torch.ones(6, 1, 1))[0] == 1).all()


def test_the_rectifier_keeps_nothing():
    x = dyadic(3, 2, 5)
    y, state = make_neuron("relu")(x)
    assert torch.equal(y, torch.where(x > 0, x, torch.zeros(())))
    assert state.numel() == 0


def test_plif_learns_its_time_constant():
    """d/dw of v[1] = (1-k) v[0] + k x with k = sigmoid(w): k (1-k) (x - v[0])."""
    neuron = PLIF(tau=2.0, v_threshold=100.0, detach_reset=True)
    x, v = torch.tensor([[[3.0]]]), torch.tensor([[1.0]])
    neuron(x, v)[1].sum().backward()
    torch.testing.assert_close(neuron.w.grad.item(), 0.25 * (3 - 1))


def test_surrogates_by_value_by_name_and_by_mapping():
    assert IF(surrogate=Sigmoid(3.0)).rule.surrogate == Sigmoid(3.0)
    assert IF(surrogate="sigmoid").rule.surrogate == Sigmoid()
    assert IF(surrogate={"kind": "arctan", "alpha": 5.0}).rule.surrogate == Arctan(5.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LIF(), "either decay or tau, got decay=None and tau=None"),
        (lambda: LIF(decay=0.5, tau=2.0), "either decay or tau"),
        (lambda: LIF(decay=1.5), r"in \[0, 1\], got 1.5"),
        (lambda: LIF(tau=0.5), "at least 1, got 0.5"),
        (lambda: LIF(decay=0.5, decay_input=True), "decay_input goes with tau"),
        (lambda: PLIF(tau=1.0), "greater than 1, got 1.0"),
        (lambda: MLF(decay=-0.1), r"in \[0, 1\], got -0.1"),
        (lambda: MLF(levels=0), "levels must be at least 1, got 0"),
        (lambda: MLF(v_step=0.0), r"must rise from v_threshold on, got \[0.6, 0.6, 0.6\]"),
        (lambda: LIF(detach_reset="no"), "detach_reset must be true or false, got 'no'"),
        (lambda: ILIF(detach_reset=1), "detach_reset must be true or false, got 1"),
        (lambda: IF(strict=0.0), "strict must be true or false, got 0.0"),
        (lambda: ILIF(levels=1.5), "levels must be a whole number, got 1.5"),
        (lambda: ILIF(levels=0), "levels must be at least 1, got 0"),
        (lambda: ILIF(v_threshold=0.0), "v_threshold must be a number greater than 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown option of LIF 'decya'; nearest: decay"):
        LIF(decya=0.5)
    with pytest.raises(UnknownName, match="'v_treshold'; nearest: v_threshold"):
        IF(v_treshold=0.5)
    with pytest.raises(UnknownName, match="unknown option of ILIF 'level'; nearest: levels"):
        ILIF(level=2)
