"""Eval without gradients takes many steps at once, and a stream, one step at a time, has the same bits."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

import isospike as iso
from helpers import enliven
from isospike.errors import ShapeError
from isospike.inference import EvalPass, eval_pass
from isospike.inference.pieces import CACHE, Pieces, pieces_of
from isospike.layers import BatchNorm, Steps
from isospike.residual.join import Join
from test_graph import without_row
from test_inference import NETWORKS, ROWS
from test_own_classes import OWN

pytestmark = pytest.mark.compiled
# Samples, steps, height and width, memory order of the input.
CLIPS = [
    (1, 1, 33, torch.contiguous_format),
    (2, 2, 35, torch.channels_last),
    (3, 4, 33, torch.contiguous_format),
    (1, 3, 37, torch.channels_last),
]


def network(name, **options):
    return enliven(iso.create_model(name, T=2, num_classes=5, **options)).eval()


def clip_of(model, samples, steps, size, memory):
    size = 128 if model.layout.pool_stages else size
    x = torch.randn(steps * samples, model.in_channels, size, size).contiguous(memory_format=memory)
    return x.unflatten(0, (steps, samples))


@torch.no_grad()
def streamed(model, clip):
    """Logits of every step, and the last state."""
    state, logits = None, []
    for x in clip:
        now, state = model.step(x, state)
        logits.append(now)
    return torch.stack(logits), state


@torch.no_grad()
def at_once(model, clip):
    return model(clip, per_step=True)


@pytest.fixture
def passes(monkeypatch):
    """The calls of eval passes."""
    seen, original = [], EvalPass._run
    monkeypatch.setattr(EvalPass, "_run", lambda self, *args: seen.append(self) or original(self, *args))
    return seen


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
@pytest.mark.usefixtures("each_isa")
def test_a_stream_has_the_bits_of_the_clip(name, options, passes):
    model = network(name, **options)
    shapes = CLIPS[1:2] if model.layout.pool_stages else CLIPS
    for samples, steps, size, memory in shapes:
        steps = model.T if model.knows_steps else steps
        clip = clip_of(model, samples, steps, size, memory)
        whole = at_once(model, clip)
        assert torch.equal(streamed(model, clip)[0], whole)
        still = clip[:1].expand(steps, *clip.shape[1:])
        with torch.no_grad():
            assert torch.equal(model(clip[0], T=steps, per_step=True), at_once(model, still))
        assert len(passes) == 3 + steps
        passes.clear()


@pytest.mark.parametrize(("name", "options"), ROWS, ids=str)
def test_what_the_library_cannot_run_goes_step_by_step_to_the_bits_of_the_stream(name, options, passes):
    model = network(name, **options).double()
    for samples, steps, size, memory in CLIPS:
        clip = clip_of(model, samples, steps, size, memory).double()
        assert torch.equal(streamed(model, clip)[0], at_once(model, clip))
    single = model.float()
    for samples, steps, size, memory in CLIPS[1:2]:
        clip = clip_of(single, samples, steps, size, memory)
        with iso.use_backend("reference"):
            assert torch.equal(streamed(single, clip)[0], at_once(single, clip))
    assert passes == []


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=str)
def test_it_gives_what_the_modules_give(name, options, passes):
    """But for spikes that sums in another order decide; of the logits of all steps nearly all agree."""
    model = network(name, **options)
    clip = clip_of(model, *CLIPS[1])
    logits, true = at_once(model, clip), model(clip, per_step=True).detach()
    scale = true.abs().max().item()
    assert ((logits - true).abs() <= 1e-3 * scale).double().mean() >= 0.5
    torch.testing.assert_close(logits, true, rtol=0, atol=0.25 * scale)
    assert len(passes) == 1


@pytest.mark.parametrize(("name", "options"), ROWS, ids=str)
def test_neither_threads_nor_other_samples_nor_pieces_change_a_bit(name, options, monkeypatch):
    model = network(name, **options)
    clip = clip_of(model, 5, 3, 33, torch.contiguous_format)
    whole = at_once(model, clip)
    for pieces in (Pieces(2, 3), Pieces(5, 1), Pieces(1, 2)):
        monkeypatch.setattr(eval_pass, "pieces_of", lambda *_, pieces=pieces, **__: pieces)
        assert torch.equal(at_once(model, clip), whole)
    monkeypatch.undo()
    assert torch.equal(at_once(model, clip[:, 2:3]), whole[:, 2:3])
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(at_once(model, clip), whole)
            assert torch.equal(streamed(model, clip)[0], whole)
    finally:
        torch.set_num_threads(1)


def test_pieces_fit_the_cache_and_do_not_grow_with_time():
    size = CACHE // 32
    assert pieces_of(32, 4, size, divisible=True) == (8, 4)
    assert pieces_of(32, 1000, size, divisible=True) == (4, 8)
    assert pieces_of(3, 4, size, divisible=True) == (3, 4)
    assert pieces_of(32, 4, size, divisible=False) == (32, 4)
    assert pieces_of(32, 1000, size, divisible=False) == (32, 16)
    assert pieces_of(32, 4, CACHE // 8, divisible=True) == (32, 4)
    assert pieces_of(64, 1000, 4 * CACHE, divisible=True) == (64, 1)


def test_features_and_maps_are_those_of_the_stream(passes):
    model = network("sew_resnet8")
    clip = clip_of(model, *CLIPS[2])
    with torch.no_grad():
        features, maps = model.forward_features(clip), model.stage_maps(clip)
        for t, x in enumerate(clip[:1]):
            assert torch.equal(model.forward_features(x, T=1)[0], features[t])
            for one, several in zip(model.stage_maps(x, T=1), maps, strict=True):
                assert torch.equal(one[0], several[t])
        static = model.stage_maps(clip[0], T=3)
    assert {len(m) for m in static} == {3}
    for ours, true in zip(maps, model.stage_maps(clip), strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-3, atol=1e-3)
    assert len(passes) == 5


def test_a_state_goes_from_one_way_to_the_other(passes):
    model = network("vanilla_resnet19", width=8)
    clip = clip_of(model, *CLIPS[2])
    ours, state = streamed(model, clip[:2])
    with iso.use_backend("reference"):
        _, true = streamed(model, clip[:2])
        model.step(clip[2], state)
    assert len(passes) == 2
    model.step(clip[2], true)
    assert {name: v.shape for name, v in state.items()} == {name: v.shape for name, v in true.items()}
    assert len(passes) == 3


def change_a_weight(model):
    model.stages[0][0].branch.conv1.weight.data.mul_(1.5)


def change_a_weight_behind_pytorchs_back(model):
    model.stages[1][0].branch.conv1.weight.detach().numpy()[:] *= 1.5


def load_other_weights(model):
    model.load_state_dict(enliven(iso.create_model("ms_resnet8", T=2, num_classes=5)).state_dict())


def replace_a_weight(model):
    conv = model.stages[0][0].branch.conv2
    conv.weight = nn.Parameter(conv.weight.detach() * -1)


def change_statistics(model):
    model.stages[1][0].branch.norm1.running_mean.add_(0.3)


def change_a_number_of_a_norm(model):
    model.stages[1][0].branch.norm1.eps = 0.5


def change_the_classifier(model):
    model.head.fc.bias.data.add_(1)


def change_a_threshold(model):
    neuron = model.stages[0][0].branch.spike1
    neuron.rule = replace(neuron.rule, v_threshold=0.1)


def change_a_leak(model):
    model.stages[0][0].branch.spike2.decay = 0.9


def put_in_levels(model):
    model.stages[0][0].branch.spike1 = iso.MLF(decay=0.25)


def change_a_dilation(model):
    conv = model.stages[0][0].branch.conv1
    conv.dilation = conv.padding = (2, 2)


CHANGES = [
    change_a_weight, change_a_weight_behind_pytorchs_back, load_other_weights, replace_a_weight, change_statistics,
    change_a_number_of_a_norm, change_the_classifier, change_a_threshold, change_a_leak, put_in_levels,
    change_a_dilation,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_whatever_changes_between_two_calls_counts(change, passes):
    model = network("ms_resnet8")
    clip = clip_of(model, *CLIPS[1])
    before = at_once(model, clip)
    with torch.no_grad():
        change(model)
    after = at_once(model, clip)
    assert not torch.equal(after, before)
    assert torch.equal(at_once(deepcopy(model), clip), after)
    assert torch.equal(streamed(model, clip)[0], after)
    true = model(clip, per_step=True).detach()
    torch.testing.assert_close(after, true, rtol=1e-3, atol=1e-3 * true.abs().max().item())
    assert len(passes) == 5


def test_a_hook_sees_step_after_step_and_its_end_is_noticed(passes):
    model = network("ms_resnet8")
    clip = clip_of(model, *CLIPS[2])
    before, seen = at_once(model, clip), []
    hooks = [
        stage.register_forward_hook(lambda _, args, y, number=number: seen.append((args[1].start, number, len(y))))
        for number, stage in enumerate(model.stages)
    ]
    hooked = at_once(model, clip)
    assert seen == [(t, number, 1) for t in range(4) for number in range(3)]
    assert torch.equal(streamed(model, clip)[0], hooked)
    assert len(passes) == 1
    for hook in hooks:
        hook.remove()
    assert torch.equal(at_once(model, clip), before)
    assert len(passes) == 2


@pytest.mark.parametrize("name", OWN)
def test_classes_of_ones_own_run_as_they_are_written(name, passes):
    model = OWN[name]().eval()
    clip = torch.randn(3, 2, 3, 17, 17)
    logits, true = at_once(model, clip), model(clip, per_step=True).detach()
    assert torch.equal(streamed(model, clip)[0], logits)
    torch.testing.assert_close(logits, true, rtol=1e-3, atol=1e-3 * true.abs().max().item())
    assert len(passes) == 4


def test_a_join_of_ones_own_runs_as_it_is_written(passes):
    model = network("sew_resnet8")
    model.stages[0][0].join = Join("max", torch.maximum, neutral=0.0, binary=False)
    clip = clip_of(model, *CLIPS[2])
    logits, true = at_once(model, clip), model(clip, per_step=True).detach()
    assert torch.equal(streamed(model, clip)[0], logits)
    torch.testing.assert_close(logits, true, rtol=1e-3, atol=1e-3 * true.abs().max().item())
    assert len(passes) == 5


def test_convolutions_in_groups_run_step_by_step(passes):
    model = network("ms_resnet8")
    branch = model.stages[0][0].branch
    branch.conv1 = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
    clip = clip_of(model, *CLIPS[3])
    assert torch.equal(streamed(model, clip)[0], at_once(model, clip))
    torch.testing.assert_close(at_once(model, clip), model(clip, per_step=True).detach(), rtol=1e-3, atol=1e-3)
    assert len(passes) == 5


def test_a_network_without_a_row_has_the_bits_of_the_one_that_has_it(passes):
    model = network("ds_resnet8").double()
    net, model = without_row(model).float(), model.float()
    clip = clip_of(model, *CLIPS[1])
    assert torch.equal(at_once(net, clip), at_once(model, clip))
    assert torch.equal(streamed(net, clip)[0], at_once(model, clip))
    assert len(passes) == 5


def share_a_neuron(model):
    model.stages[1][0].branch.spike1 = model.stages[0][0].branch.spike1


def train_a_norm(model):
    model.stages[0][0].branch.norm1.train()


@pytest.mark.parametrize("change", [share_a_neuron, train_a_norm], ids=lambda f: f.__name__)
def test_what_one_pass_would_do_otherwise_goes_step_by_step(change, passes):
    model = network("ms_resnet8")
    change(model)
    clip = clip_of(model, *CLIPS[2])
    logits = at_once(deepcopy(model), clip)
    steps = Steps(1, {})
    expected = []
    with torch.no_grad():
        for steps.start in range(len(clip)):
            now = clip[steps.start : steps.start + 1].contiguous()
            expected.append(model.run(now, steps))
    assert torch.equal(logits, torch.cat(expected))
    assert passes == []


def test_gradients_go_through_the_modules(passes):
    model = network("ms_resnet8")
    x = torch.randn(2, 3, 33, 33, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert passes == []


def test_no_samples_give_no_logits():
    with torch.no_grad():
        assert network("ms_resnet8")(torch.randn(0, 3, 33, 33)).shape == (0, 5)


def test_training_lets_go_of_the_copies_of_weights():
    model = network("ms_resnet8")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model(x)
        assert model._eval_passes._made[1]
        model.train()(x)
        assert not model._eval_passes._made[1]
        copy = deepcopy(model.eval())
        assert not copy._eval_passes._made[1]


def test_a_norm_of_the_wrong_size_is_refused_as_it_was():
    model = network("ms_resnet8")
    model.stages[0][0].branch.norm1 = BatchNorm(8).eval()
    with torch.no_grad(), pytest.raises(ShapeError, match=r"the norm takes \[T\*B, 8, H, W\]"):
        model(torch.randn(2, 3, 32, 32))
