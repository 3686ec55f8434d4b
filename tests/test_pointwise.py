"""The compiled pass gives the bits of its eager form, on numbers whose products and sums are exact."""

from itertools import product

import pytest
import torch

from isospike.ops import FireRule, Firing, IntegerRule
from isospike.ops.cpu.pointwise import CompiledPass, can_run
from isospike.ops.pointwise import Pointwise, ScaleShift, Span, eager_pass

pytestmark = pytest.mark.compiled
RULES = {
    "if": FireRule(),
    "strict": FireRule(strict=True, v_threshold=0.5, reset="subtract"),
    "reset": FireRule(v_reset=-0.25),
    "levels": FireRule(v_threshold=0.5, higher=(1.5, 2.5)),
    "integer": IntegerRule(levels=4),
}


def dyadic_map(samples, channels):
    x = torch.randint(-64, 129, (samples, channels, 3, 5)) / 64
    return x.contiguous(memory_format=torch.channels_last)


def counts(samples, channels, largest=1):
    x = torch.randint(0, largest + 1, (samples, channels, 3, 5), dtype=torch.uint8)
    return x.contiguous(memory_format=torch.channels_last)


def affine(steps, channels):
    return ScaleShift(torch.randint(-64, 65, (steps, channels)) / 64, torch.randint(-64, 65, (steps, channels)) / 64)


def assert_same(spec, span, *maps, v=None):
    assert can_run(spec, maps[0].shape[1])
    results = CompiledPass(spec, maps[0].shape[1])(span, *maps, v=v), eager_pass(spec, span, *maps, v=v)
    for compiled, eager in zip(*results, strict=True):
        assert (compiled is None) == (eager is None)
        if eager is not None:
            assert compiled.dtype == eager.dtype
            assert torch.equal(compiled, eager)
    return results[0]


@pytest.mark.parametrize("rule", [*RULES, "relu"])
@pytest.mark.parametrize("channels", [1, 3, 16, 600, 5000])
@pytest.mark.parametrize(("T", "B"), [(1, 2), (4, 3)])
def test_neurons_on_sums(rule, channels, T, B):
    firing = "rectifier" if rule == "relu" else Firing(0.25, 0.5, RULES[rule])
    for x_rows, y_rows, keeps in product((B, T * B), (None, B, T * B), (False, True)):
        y = None if y_rows is None else dyadic_map(y_rows, channels)
        spec = Pointwise(firing=firing, keeps_sum=keeps, integer=rule != "relu")
        assert_same(spec, Span(T, B), dyadic_map(x_rows, channels), y)


@pytest.mark.parametrize("where", ["x", "y", "affine"])
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("firing", [None, Firing(0.25, 1.0, RULES["if"]), "rectifier"])
def test_affines_of_all_steps_or_of_each(where, steps, firing):
    spec = Pointwise(firing=firing, keeps_sum=True, **{where: affine(steps, 5)})
    for x_rows, y_rows in product((2, 8), repeat=2):
        assert_same(spec, Span(4, 2, start=2), dyadic_map(x_rows, 5), dyadic_map(y_rows, 5))


@pytest.mark.parametrize("join", ["add", "and", "iand"])
@pytest.mark.parametrize("rule", ["if", "reset", None])
@pytest.mark.parametrize("integer", [False, True])
def test_joins_with_spikes_in_either_type(join, rule, integer):
    firing = None if rule is None else Firing(0.5, 1.0, RULES[rule])
    spec = Pointwise(firing=firing, join=join, integer=integer)
    for z_rows in (3, 6):
        for z in (counts(z_rows, 7), counts(z_rows, 7).float()):
            x = counts(6, 7) if firing is None else dyadic_map(6, 7)
            assert_same(spec, Span(2, 3), x, None, z)


def as_bits(spikes):
    """0 and 1, ``[N, C, H, W]``, written as bits by the pass itself."""
    return CompiledPass(Pointwise(integer=True), spikes.shape[1], bits=True)(Span(1, len(spikes)), spikes).out


def from_bits(bits):
    """uint8 ``[N, C / 8, H, W]`` to ``[N, C, H, W]``: bit i of a byte is its channel i."""
    return (bits.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8).view(-1, 1, 1) & 1).flatten(1, 2)


@pytest.mark.parametrize("channels", [8, 16, 72, 1032])
@pytest.mark.parametrize("rule", ["if", "strict"])
@pytest.mark.parametrize("join", [None, "and", "iand"])
@pytest.mark.usefixtures("each_isa")
def test_spikes_as_bits_are_those_as_bytes(channels, rule, join):
    """Written, and read as a term of a sum and of a join; 15 pixels fill no word."""
    spec, span = Pointwise(firing=Firing(0.25, 1.0, RULES[rule]), join=join, integer=True), Span(2, 3, stateful=True)
    y, z = counts(6, channels), None if join is None else counts(3, channels)
    maps = dyadic_map(6, channels), y, z
    told = CompiledPass(spec, channels)(span, *maps)
    bits = CompiledPass(spec, channels, bits=True)(span, maps[0], as_bits(y), None if z is None else as_bits(z))
    assert bits.out.shape == (6, channels // 8, 3, 5)
    assert torch.equal(from_bits(bits.out), told.out)
    assert torch.equal(bits.v, told.v)
    assert 0 < told.out.float().mean() < 1


def test_a_map_in_another_memory_order_is_put_in_order():
    spec = Pointwise(firing=Firing(0.25, 1.0, RULES["if"]), join="add")
    x, z = torch.randint(-64, 129, (4, 6, 3, 5)) / 64, counts(4, 6).contiguous()
    assert not x.is_contiguous(memory_format=torch.channels_last)
    assert_same(spec, Span(2, 2), x, None, z)


@pytest.mark.parametrize("rule", RULES)
def test_steps_in_two_halves_are_the_steps_at_once(rule):
    spec = Pointwise(firing=Firing(0.5, 1.0, RULES[rule]))
    x = dyadic_map(8, 5)
    whole = CompiledPass(spec, 5)(Span(4, 2), x).out
    first = assert_same(spec, Span(2, 2, stateful=True), x[:4])
    second = assert_same(spec, Span(2, 2, 2, stateful=True), x[4:], v=first.v)
    assert torch.equal(torch.cat([first.out, second.out]), whole)


def test_what_there_is_no_room_for_is_said(monkeypatch):
    assert not can_run(Pointwise(firing=Firing(0.5, 1.0, FireRule(higher=tuple(range(2, 19))))), 3)
    monkeypatch.setattr("isospike.ops.cpu.pointwise.library", lambda: None)
    assert not can_run(Pointwise(), 3)


def test_a_byte_is_the_nearest_to_its_value_and_0_for_what_is_no_number():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, 3.0, 3e9]).view(1, 6, 1, 1)
    out = CompiledPass(Pointwise(integer=True), 6)(Span(1, 1), x).out
    assert out.flatten().tolist() == [0, 255, 0, 0, 3, 255]
