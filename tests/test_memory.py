"""Modes of memory: the same gradients from less; and the planner, which knows before."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import isospike as iso
from isospike.errors import ConfigError, UnknownName
from isospike.layers import MEMORY, recomputed
from isospike.malloc import keep_freed_memory, return_freed_memory
from isospike.train import plan as planner
from isospike.train.plan import Lives, MemoryPlan, _at_most, check_fits, plan_training

PEAK = """
import json, sys, torch, torch.nn.functional as F
import isospike as iso
from isospike.malloc import keep_freed_memory, return_freed_memory
from isospike.memory import peak_memory_mb
name, memory, batch, T = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
keep_freed_memory() if memory == "fast" else return_freed_memory()
cpu = torch.device("cpu")
F.conv2d(torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3))
before = peak_memory_mb(cpu)
model = iso.create_model(name, T=T)
model.memory = memory
for _ in range(2):
    F.cross_entropy(model(torch.randn(batch, 3, 32, 32)), torch.randint(0, 10, (batch,))).backward()
    model.zero_grad()
print(json.dumps(peak_memory_mb(cpu) - before))
"""

# One topology of those whose stream and neurons are the same: these decide what a backward needs.
KEEP_ALIKE = {(row.stream, str(row.neuron)): name for name, row in ((n, iso.TOPOLOGIES[n]) for n in iso.TOPOLOGIES)}


def gradients(model, x, memory, backend):
    model.memory = memory
    model.zero_grad()
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    with iso.use_backend(backend):
        loss = F.cross_entropy(model(x), torch.arange(len(x)))
    loss.backward()  # outside: what is computed anew runs on the backend of the forward
    after = {k: v.clone() for k, v in model.named_buffers()}
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return loss.detach(), [p.grad.clone() for p in model.parameters()], after


@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_have_the_same_bits_and_statistics_move_once(topology, backend):
    torch.manual_seed(0)
    model = iso.create_model(f"{topology}_resnet20", T=2)
    x = torch.randn(4, 3, 8, 8)
    loss, grads, after = gradients(model, x, "lean", backend)
    for memory in MEMORY:
        loss_too, grads_too, after_too = gradients(model, x, memory, backend)
        assert torch.equal(loss, loss_too)
        assert all(torch.equal(a, b) for a, b in zip(grads, grads_too, strict=True))
        assert all(torch.equal(after[key], after_too[key]) for key in after)
    assert any(not torch.equal(after[key], value) for key, value in model.named_buffers())


@pytest.mark.parametrize("reach", ["fusion", "global"])
def test_links_between_stages_are_no_obstacle(reach):
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet20", T=2, reach=reach)
    x = torch.randn(4, 3, 16, 16)
    _, grads, _ = gradients(model, x, "fast", "auto")
    for memory in ("lean", "leanest"):
        _, grads_too, _ = gradients(model, x, memory, "auto")
        for a, b in zip(grads, grads_too, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_segment_runs_again_once_per_backward_and_never_in_eval():
    runs = []

    def segment(x):
        runs.append(torch.is_grad_enabled())
        return x.sin().exp()

    x = torch.randn(5, requires_grad=True)
    y = recomputed(segment, x)
    y.sum().backward(retain_graph=True)
    assert torch.equal(x.grad, torch.autograd.grad(x.sin().exp().sum(), x)[0])
    assert len(runs) == 2
    y.sum().backward()
    assert len(runs) == 3
    with torch.autocast("cpu", torch.bfloat16):
        product = recomputed(lambda x: (x @ x).sin(), torch.randn(4, 4, requires_grad=True))
    assert product.dtype == torch.bfloat16
    product.float().sum().backward()


def test_an_unknown_mode_is_answered():
    model = iso.create_model("ms_resnet8")
    with pytest.raises(UnknownName, match="unknown memory 'leaner'; nearest: lean, leanest"):
        model.memory = "leaner"
    assert model.memory == "fast"


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("name", "memory", "batch", "T"),
    [
        *((f"{topology}_resnet20", "fast", 16 if topology == "ds" else 32, 4) for topology in KEEP_ALIKE.values()),
        ("ms_resnet18", "fast", 16, 4),  # wide: weights and their gradients count
        ("ds_resnet20", "lean", 8, 4),
        ("sew_resnet20", "lean", 32, 4),
        ("ms_resnet56", "leanest", 24, 4),
    ],
)
def test_the_planner_is_within_15_percent_of_a_real_process(name, memory, batch, T):
    command = [sys.executable, "-c", PEAK, name, memory, str(batch), str(T)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1e6
    plan = plan_training(iso.create_model(name, T=T), batch=batch, size=32, memory=memory, moments=0)
    assert abs(plan.total / measured - 1) < 0.15


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_bytes_that_are_alive_are_those_of_the_whole_step(batch, autocast):
    """Of a network of two sizes of maps, counted in small trials and counted in full."""
    model = iso.create_model("ms_resnet8", T=2)
    planned = plan_training(model, batch=batch, size=32, memory="fast", autocast=autocast)
    counted = planner.lives_of_a_step(model.train(), batch, 32, None, autocast)
    other = planner.lives_of_a_step(model, batch, 32, None, torch.bfloat16 if autocast is None else None)
    assert abs(counted.peak / other.peak - 1) > 0.02
    assert planned.alive == pytest.approx(counted.peak, rel=0.01)
    assert planned.wasted == pytest.approx(1.5 * max(counted.sizes) + planned.optimizer / 2, rel=0.01)


def test_trials_grow_until_they_do_the_same_and_end_in_a_line_through_peaks():
    def fixed_and_growing(images):  # 30 bytes an image on top of 1000, in two tensors that live together
        return Lives(images, [0, 1, ~0, ~1], [1000, 30e6 * images])

    def another_way_from_16_images_on(images):
        seen.append(images)
        return fixed_and_growing(images) if images < 16 else Lives(images, [0, ~0], [50e6 * images])

    def no_two_alike(images):
        return Lives(images, [0, ~0] * images, [1e6 * images] * images)

    seen = []
    assert _at_most(100, fixed_and_growing) == (1000 + 3e9, 3e9)
    assert _at_most(100, another_way_from_16_images_on) == (1000 + 3e9, 3e9)
    assert seen == [2, 4]
    assert _at_most(1, fixed_and_growing) == (1000 + 30e6, 30e6)
    assert _at_most(100, no_two_alike) == (1e8, 1e8)
    seen = []
    _at_most(24, lambda images: seen.append(images) or no_two_alike(images))
    assert seen == [2, 4, 8, 16, 24]  # the whole batch is as large as a trial needs to be
    sizes_that_jump = {2: 9e6, 4: 16e6, 8: 16e6, 16: 16e6, 32: 16e6}
    assert _at_most(50, lambda images: Lives(images, [0, ~0], [sizes_that_jump[images]])) == (16e6, 16e6)


def test_planning_leaves_the_model_as_it_is_and_grows_with_the_batch():
    model = iso.create_model("ms_resnet8", T=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small, large = (plan_training(model, batch=batch, size=32, memory="fast") for batch in (8, 16))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.memory == "fast"
    assert large.alive > 1.7 * small.alive
    parameters, buffers = (sum(t.nbytes for t in tensors) for tensors in (model.parameters(), model.buffers()))
    assert (large.model, large.optimizer) == (small.model, small.optimizer) == (parameters + buffers, parameters)
    assert large.total - large.further == parameters + buffers


@pytest.mark.compiled
def test_leaner_modes_take_less():
    model = iso.create_model("ms_resnet110", T=2)
    fast, lean, leanest = (
        plan_training(model, batch=32, size=32, memory=name, keeps_freed=False).alive for name in MEMORY
    )
    assert leanest < 0.8 * lean < 0.4 * fast


def test_a_run_that_does_not_fit_is_refused_with_what_would():
    """The model is there already when this is asked, and counts no more."""
    plans = {name: MemoryPlan(name, 7e9, 0.0, alive, 0.0) for name, alive in zip(MEMORY, (9e9, 4e9, 2e9), strict=True)}
    check_fits(plans, "fast", 10e9)
    with pytest.raises(ConfigError, match=r"needs about 9.0 GB .* 5.0 GB are free: with train.memory=lean .* 4.0 GB"):
        check_fits(plans, "fast", 5e9)
    with pytest.raises(ConfigError, match=r"2.0 GB are free: take a smaller train.batch_size"):
        check_fits(plans, "leanest", 2e9)


def test_the_allocator_can_be_told_either_way():
    assert keep_freed_memory()
    assert return_freed_memory()
