"""Units against functions written by hand from the papers' equations, forward and gradient, in float64."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from helpers import REQUIRED, STEPPING, enliven, make_neuron
from isospike.layers import Steps
from isospike.neurons import NEURONS
from isospike.residual import JOINS, TOPOLOGIES, ResidualUnit
from isospike.residual.da import DA_CNS, DA_NCS, DA_NSC, DA_SCN
from isospike.residual.ds import DS
from isospike.residual.join import AND, IAND
from isospike.residual.ms import MS
from isospike.residual.plain import PLAIN
from isospike.residual.sew import SEW
from isospike.residual.vanilla import VANILLA

T, B = 3, 2
DA = (DA_CNS, DA_NCS, DA_SCN, DA_NSC)


class Step(torch.autograd.Function):
    """Written anew, so that a fault in the package's own cannot hide."""

    @staticmethod
    def forward(ctx, u, threshold, strict, slope):
        ctx.save_for_backward(slope(u - threshold))
        return (u > threshold if strict else u >= threshold).to(u.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None, None, None


def lif_quarter(x, detach):
    """u[t] = u[t-1] (1 - s[t-1]) / 4 + x[t]; s = u > 0.5; rectangle of width 1."""
    u, out = torch.zeros_like(x[0]), []
    s = torch.zeros_like(x[0])
    for x_t in x:
        u = 0.25 * u * (1 - (s.detach() if detach else s)) + x_t
        s = Step.apply(u, 0.5, True, lambda d: (d.abs() < 0.5).double())
        out.append(s)
    return torch.stack(out)


def if_atan(x):
    """u[t] = u[t-1] (1 - s[t-1]) + x[t]; s = u >= 1; arctan of alpha 2; reset detached."""
    u, out = torch.zeros_like(x[0]), []
    s = torch.zeros_like(x[0])
    for x_t in x:
        u = u * (1 - s.detach()) + x_t
        s = Step.apply(u, 1.0, False, lambda d: 1 / (1 + (math.pi * d) ** 2))
        out.append(s)
    return torch.stack(out)


def mlf(x, levels=3):
    """u_k[t] = u_k[t-1] (1 - s_k[t-1]) / 4 + x[t]; s_k = u_k > 0.6 + k; width 1; the reset is in the gradient."""
    total = torch.zeros_like(x)
    for k in range(levels):
        u = s = torch.zeros_like(x[0])
        out = []
        for x_t in x:
            u = 0.25 * u * (1 - s) + x_t
            s = Step.apply(u, 0.6 + k, True, lambda d: (d.abs() < 0.5).double())
            out.append(s)
        total = total + torch.stack(out)
    return total


def lif_detached(x):
    return lif_quarter(x, detach=True)


def conv(layer, x):
    return F.conv2d(x.flatten(0, 1), layer.weight, stride=layer.stride, padding=layer.padding).unflatten(0, x.shape[:2])


def norm(layer, x, factor=1.0, eps=1e-5, root_eps=0.0):
    """Batch statistics over T, B, H, W; ``factor`` is tdBN's alpha * V, ``root_eps`` stands beside the root."""
    mean = x.mean((0, 1, 3, 4), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 1, 3, 4), keepdim=True)
    xhat = factor * (x - mean) / (torch.sqrt(var + eps) + root_eps)
    return layer.weight.view(1, 1, -1, 1, 1) * xhat + layer.bias.view(1, 1, -1, 1, 1)


def ms_unit(u, x, pool=False):
    b = u.branch
    y = norm(b.norm1, conv(b.conv1, lif_quarter(x, detach=True)))
    y = norm(b.norm2, conv(b.conv2, lif_quarter(y, detach=True)))
    if not u.projects:
        return y + x
    if pool:
        x = F.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
    return y + norm(u.skip.norm, conv(u.skip.conv, x))


def ms_bottleneck(u, x):
    b = u.branch
    y = x
    for layer, bn in ((b.conv1, b.norm1), (b.conv2, b.norm2), (b.conv3, b.norm3)):
        y = norm(bn, conv(layer, lif_quarter(y, detach=True)))
    return y + norm(u.skip.norm, conv(u.skip.conv, x))


def sew_unit(u, x, join):
    b = u.branch
    y = if_atan(norm(b.norm1, conv(b.conv1, x)))
    y = if_atan(norm(b.norm2, conv(b.conv2, y)))
    skip = x if not u.projects else if_atan(norm(u.skip.norm, conv(u.skip.conv, x)))
    return {"add": y + skip, "and": y * skip, "iand": skip * (1 - y)}[join]


def vanilla_unit(u, x):
    b, half = u.branch, 0.5 / math.sqrt(2)
    y = lif_quarter(norm(b.norm1, conv(b.conv1, x), 0.5), detach=False)
    y = norm(b.norm2, conv(b.conv2, y), half)
    skip = x if not u.projects else norm(u.skip.norm, conv(u.skip.conv, x), half)
    return lif_quarter(y + skip, detach=False)


def vanilla_unit_with_norms_everywhere(u, x):
    b, half = u.branch, 0.5 / math.sqrt(2)
    y = lif_quarter(norm(b.norm1, conv(b.conv1, x), 0.5), detach=False)
    y = norm(b.norm2, conv(b.conv2, y), half)
    return lif_quarter(y + norm(u.skip.norm, x, half), detach=False)


def plain_unit(u, x):
    b = u.branch
    y = lif_quarter(norm(b.norm1, conv(b.conv1, x), 0.5), detach=False)
    return lif_quarter(norm(b.norm2, conv(b.conv2, y), 0.5), detach=False)


def ds_norm(layer, x):
    """As the released code has it: eps is added to the root."""
    return norm(layer, x, 0.6, eps=0.0, root_eps=1e-5)


def ds_unit(u, x, levels=3):
    b = u.branch
    y = mlf(ds_norm(b.norm1, conv(b.conv1, x)), levels)
    y = mlf(ds_norm(b.norm2, conv(b.conv2, y)), levels)
    return y + (mlf(ds_norm(u.skip.norm, conv(u.skip.conv, x)), levels) if u.projects else x)


def da_unit(order, u, x):
    """Twice the letters of the order, added to the stream, which its own projection brings to its shape."""
    b = u.branch
    y = x
    for c, n in ((b.conv1, b.norm1), (b.conv2, b.norm2)):
        steps = {"c": lambda y, c=c: conv(c, y), "n": lambda y, n=n: norm(n, y), "s": lif_detached}
        for letter in order:
            y = steps[letter](y)
    if not u.projects:
        return y + x
    skip = conv(u.skip.conv, x)
    if order != "nsc":
        skip = norm(u.skip.norm, skip)
    return y + (lif_detached(skip) if order in ("cns", "ncs") else skip)


def da_nsc_shared(u, x):
    h = lif_detached(norm(u.shared.norm, x))
    y = conv(u.branch.conv2, lif_detached(norm(u.branch.norm, conv(u.branch.conv1, h))))
    return y + conv(u.skip.conv, h)


def ms_spiking_projection(u, x):
    b = u.branch
    y = norm(b.norm1, conv(b.conv1, lif_detached(x)))
    y = norm(b.norm2, conv(b.conv2, lif_detached(y)))
    return y + norm(u.skip.norm, conv(u.skip.conv, lif_detached(x)))


SAME, DOWN = {}, {"stride": 2}
CASES = {
    "ms": (MS, SAME, ms_unit),
    "ms-down": (MS, DOWN, ms_unit),
    "ms-pooled": (MS, {**DOWN, "pool_projection": True}, lambda u, x: ms_unit(u, x, pool=True)),
    "ms-bottleneck": (MS, {"bottleneck": True}, ms_bottleneck),
    "sew-add": (SEW, SAME, lambda u, x: sew_unit(u, x, "add")),
    "sew-add-down": (SEW, DOWN, lambda u, x: sew_unit(u, x, "add")),
    "sew-and": (SEW, SAME, lambda u, x: sew_unit(u, x, "and")),
    "sew-iand-down": (SEW, DOWN, lambda u, x: sew_unit(u, x, "iand")),
    "vanilla": (VANILLA, SAME, vanilla_unit),
    "vanilla-down": (VANILLA, DOWN, vanilla_unit),
    "ds": (DS, SAME, ds_unit),
    "ds-down": (DS, DOWN, ds_unit),
    "ds-two-levels": (replace(DS, neuron={**DS.neuron, "levels": 2}), DOWN, lambda u, x: ds_unit(u, x, 2)),
    "ds-one-level": (replace(DS, neuron={**DS.neuron, "levels": 1}), SAME, lambda u, x: ds_unit(u, x, 1)),
    **{row.name: (row, SAME, partial(da_unit, row.name[-3:])) for row in DA},
    **{f"{row.name}-down": (row, DOWN, partial(da_unit, row.name[-3:])) for row in DA},
    "da_nsc-shared": (replace(DA_NSC, project="shared conv"), DOWN, da_nsc_shared),
    "ms-spiking-projection": (replace(MS, project="spike conv norm"), DOWN, ms_spiking_projection),
    "vanilla-normed": (replace(VANILLA, identity="norm"), SAME, vanilla_unit_with_norms_everywhere),
    "plain": (PLAIN, SAME, plain_unit),
    "plain-down": (PLAIN, DOWN, plain_unit),
}


@pytest.mark.parametrize("case", CASES)
def test_units_equal_the_papers_equations(case):
    row, options, by_hand = CASES[case]
    join = {"sew-and": AND, "sew-iand-down": IAND}.get(case, row.join)
    unit = enliven(ResidualUnit(replace(row, join=join), 4, 8 if options is DOWN else 4, **options)).double()
    x = torch.randn(T, B, 4, 8, 8, dtype=torch.float64)
    if row.stream == "spike":
        x = (x > 0).double()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = unit(ours, Steps(T)), by_hand(unit, theirs)
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(y)
    d_ours = torch.autograd.grad(y, [ours, *unit.parameters()], g)
    d_theirs = torch.autograd.grad(expected, [theirs, *unit.parameters()], g)
    for name, a, b in zip(["x", *dict(unit.named_parameters())], d_ours, d_theirs, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, n=name: f"{n}: {m}")


def fits(row, join, kind):
    """Whether the row takes this join of such neurons; that it refuses the others is shown in test_topology."""
    binary = row.stream == "spike" and not row.after and make_neuron(kind).levels == 1
    return row.join is not None and (join == "add" or (binary and (row.tail_is_norm or join == "iand")))


FITTING = [(n, j, k) for n in TOPOLOGIES for j in JOINS for k in NEURONS if fits(TOPOLOGIES[n], j, k)]


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize(("name", "join", "kind"), FITTING)
def test_a_unit_with_a_neutral_tail_is_the_identity_where_its_row_promises_it(name, join, kind, bottleneck):
    neuron = {"kind": kind, **REQUIRED.get(kind, {}), **({"strict": True} if kind in STEPPING else {})}
    if kind == "qcfs":
        neuron["threshold"] = 3.0  # steps of 3/8: with steps of 1 it would leave spikes as they are
    row = replace(TOPOLOGIES[name], neuron=neuron, join=JOINS[join]).with_tail_init(0)
    unit = ResidualUnit(row, 8, 2 if bottleneck else 8, bottleneck=bottleneck)
    x = torch.randn(T, B, 8, 4, 4)
    x = (x > 0).float().requires_grad_() if row.stream == "spike" else x.requires_grad_()
    y = unit(x, Steps(T))
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g, retain_graph=True)
    assert (torch.equal(y, x) and torch.equal(dx, g)) == row.identity_at_init
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in unit.parameters())


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_static_stream_gives_what_its_copies_give(name):
    unit = enliven(ResidualUnit(TOPOLOGIES[name], 4, 8, stride=2)).double().eval()
    x = torch.randn(1, B, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(unit(x, Steps(T)), unit(x.repeat(T, 1, 1, 1, 1), Steps(T)))


@pytest.mark.parametrize("size", [5, 6, 7, 8])
def test_a_pooled_projection_fits_the_branch_for_odd_and_even_maps(size):
    unit = ResidualUnit(MS, 4, 8, stride=2, pool_projection=True)
    x = torch.randn(T, B, 4, size, size)
    assert unit(x, Steps(T)).shape[-1] == (size + 1) // 2


def test_and_starts_with_a_branch_that_fires_at_every_step():
    unit = ResidualUnit(replace(SEW, join=AND).with_tail_init(0), 4, 4)
    x = (torch.rand(T, B, 4, 4, 4) > 0.5).float()
    assert (unit.branch(x, Steps(T)) == 1).all()
    assert torch.equal(unit(x, Steps(T)), x)
