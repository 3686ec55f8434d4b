"""Densely additive stages: recursion and explicit sum, the four ways to combine, links over stages, by hand."""

import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike.layers import Steps
from isospike.residual import COMBINES, REACHES, TOPOLOGIES, ResidualUnit, Stage

T, B = 3, 2
DENSE = [name for name in TOPOLOGIES if TOPOLOGIES[name].can_be_identity]
COMBINED = [
    (name, combine) for name in DENSE for combine in COMBINES if combine != "mean" or TOPOLOGIES[name].norm_meets_stream
]
FACTORS = {"sum": lambda n: 1.0, "rsqrt": lambda n: n**-0.5, "mean": lambda n: 1 / n, "learned": lambda n: 1.0}


def stream(row, channels=8, size=8):
    x = torch.randn(T, B, channels, size, size, dtype=torch.float64)
    return (x > 0).double() if row.stream == "spike" else x


def stage_of(row, units=4):
    first = ResidualUnit(row, 8, 8, stride=2)
    return enliven(Stage(row, [first, *(ResidualUnit(row, 8, 8) for _ in range(units - 1))])).double()


@pytest.mark.parametrize(("name", "combine"), COMBINED)
def test_every_unit_reads_the_combined_outputs_of_all_before_it(name, combine):
    """x_l = c(l) sum_i a_i o_i over all outputs o_0 ... o_(l-1) of the stage: explicit sum against recursion."""
    row = iso.create_model(f"{name}_resnet8", combine=combine).topology
    stage = stage_of(row)
    weights = torch.ones(5, dtype=torch.float64)
    if combine == "learned":
        torch.nn.init.uniform_(stage.sum.weight, 0.5, 1.5)
        weights = stage.sum.weight.detach()
    x = stream(row)
    y = stage([x], Steps(T))

    factor = {"sum": lambda n: 1.0, "learned": lambda n: 1.0, "rsqrt": lambda n: n**-0.5, "mean": lambda n: 1 / n}[
        combine
    ]
    first, *others = stage
    outputs = [first.skip(first.shared(x, Steps(T)), Steps(T)), first.branch(first.shared(x, Steps(T)), Steps(T))]
    for unit in others:
        total = sum(w * o for w, o in zip(weights, outputs, strict=False))
        outputs.append(unit.branch(factor(len(outputs)) * total, Steps(T)))
    expected = factor(len(outputs)) * sum(w * o for w, o in zip(weights, outputs, strict=True))
    torch.testing.assert_close(y, expected)


def test_learned_weights_of_a_sum_start_at_one_and_learn():
    stage = stage_of(iso.create_model("da_nsc_resnet8", combine="learned").topology)
    plain = stage_of(TOPOLOGIES["da_nsc"])
    plain.load_state_dict(stage.state_dict(), strict=False)
    x = stream(TOPOLOGIES["da_nsc"])
    y = stage([x], Steps(T))
    torch.testing.assert_close(y, plain([x], Steps(T)))
    y.sum().backward()
    assert stage.sum.weight.grad.abs().min() > 0


def outputs_of(model, x):
    """What stem and stages put out, and the features."""
    kept = []
    model.opening.register_forward_hook(lambda m, args, y: kept.append(y))
    for stage in model.stages:
        stage.register_forward_hook(lambda m, args, y: kept.append(y))
    model(x)
    return kept


def units_alone(stage, x):
    for unit in stage:
        x = unit(x, Steps(T))
    return x


@pytest.mark.parametrize("combine", ["sum", "rsqrt", "learned"])
@pytest.mark.parametrize("name", ["da_cns", "da_nsc", "ms"])
@pytest.mark.parametrize(
    ("reach", "linked"), [("fusion", [[0, 1], [0, 1, 2], [0, 1, 2, 3]]), ("fusion_distant", [[], [0], [0, 1]])]
)
def test_links_at_the_end_of_a_stage_by_hand(name, reach, linked, combine):
    """y_s + c(n) sum over the linked outputs of spike(norm(conv(o))), the stage's own output among them."""
    model = enliven(iso.create_model(f"{name}_resnet8", reach=reach, combine=combine, T=T)).double()
    clip = torch.randn(T, B, 3, 16, 16, dtype=torch.float64)
    kept = outputs_of(model, clip)
    for number, (stage, sources) in enumerate(zip(model.stages, linked, strict=True), start=1):
        own = units_alone(stage, kept[number - 1])
        available = [*kept[:number], own]
        terms = []
        for source in sources:
            chain = stage.links.get_submodule(str(source))
            assert [n for n, _ in chain.named_children()] == ["conv", "norm", "spike"]
            assert chain.conv.kernel_size == (1, 1)
            terms.append(chain(available[source], Steps(T)))
        expected = own + FACTORS[combine](len(terms)) * sum(terms) if terms else own
        torch.testing.assert_close(kept[number], expected)


@pytest.mark.parametrize(
    ("name", "words"), [("da_cns", ["pool", "conv", "norm", "spike"]), ("da_scn", ["pool", "conv", "norm"])]
)
def test_global_links_reach_every_unit_behind_the_first(name, words):
    """Added once behind the first unit, the link stands in what every further unit reads, by the running sum."""
    model = enliven(iso.create_model(f"{name}_resnet14", reach="global", T=T)).double()
    clip = torch.randn(T, B, 3, 16, 16, dtype=torch.float64)
    kept = outputs_of(model, clip)
    assert model.stages[0].links is None
    for number, stage in enumerate(model.stages[1:], start=2):
        link = 0
        for source in range(1, number):
            chain = stage.links.get_submodule(str(source))
            assert [n for n, _ in chain.named_children()] == words
            link = link + chain(kept[source], Steps(T))
        first, second = stage
        x = first(kept[number - 1], Steps(T)) + link
        torch.testing.assert_close(kept[number], second(x, Steps(T)))


@pytest.mark.parametrize("reach", [r for r in REACHES if r != "stage"])
@pytest.mark.parametrize("name", ["da_cns_resnet18", "da_scn_resnet50", "ms_resnet8", "ms_resnet18"])
def test_linked_networks_stream_and_train_like_others(name, reach):
    model = enliven(iso.create_model(name, reach=reach, num_classes=5)).eval()
    clip = torch.randn(3, 2, 3, 64, 64)
    state, streamed = None, []
    for x in clip:
        logits, state = model.step(x, state)
        streamed.append(logits)
    with torch.no_grad():
        assert torch.equal(torch.stack(streamed), model(clip, per_step=True))
    model.train()(clip).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_models_with_other_steps_share_their_weights():
    one, four = iso.create_model("da_scn_resnet8", T=1), iso.create_model("da_scn_resnet8", T=4)
    four.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(one.eval()(x, T=4), four.eval()(x))
