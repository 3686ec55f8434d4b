"""Threads that run networks at the same time: what one asks for is no business of the others."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import isospike as iso
from isospike.layers import MEMORY, BatchNorm, one_statistics_update, statistics_held, statistics_known


def at_once(*jobs):
    """The results of functions that each run in a thread of their own; a barrier is handed to each."""
    barrier = threading.Barrier(len(jobs), timeout=30)
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job, barrier) for job in jobs]]


def moved(norm):
    before = norm.running_mean.clone()
    norm(torch.randn(4, 3, 5, 5) + 1)
    return not torch.equal(before, norm.running_mean)


@pytest.mark.parametrize("block", [statistics_known, statistics_held, one_statistics_update])
def test_a_block_holds_for_its_own_thread_and_ends_with_it(block):
    """The second thread enters inside the first one's block and leaves after it."""

    def first(barrier):
        norm, seen = BatchNorm(3), []
        with block():
            barrier.wait()  # both are inside
            barrier.wait()
            seen.append(moved(norm))
        barrier.wait()  # the second is still inside
        seen.append(moved(norm))
        barrier.wait()
        return seen

    def second(barrier):
        with block():
            barrier.wait()
            barrier.wait()
            barrier.wait()
            inside = moved(BatchNorm(3))
            barrier.wait()
        return [inside, moved(BatchNorm(3))]

    def outsider(barrier):
        seen = []
        for _ in range(4):
            barrier.wait()
            seen.append(moved(BatchNorm(3)))
        return seen

    assert at_once(first, second, outsider) == [[False, True], [False, True], [True] * 4]
    assert moved(BatchNorm(3))


def trained(memory, seed, barrier=None):
    """Weights and statistics after a few steps; with a barrier, all threads are in a backward pass together."""
    model = iso.create_model("ms_resnet8", T=2, width=4)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.memory = memory
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss = F.cross_entropy(model(torch.randn(4, 3, 8, 8, generator=generator)), torch.arange(4))
        if barrier is not None:
            barrier.wait()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("memory", MEMORY)
def test_threads_that_train_together_get_the_bits_of_each_alone(memory):
    seeds = range(4)
    together = at_once(*(lambda barrier, seed=seed: trained(memory, seed, barrier) for seed in seeds))
    for seed, state in zip(seeds, together, strict=True):
        alone = trained(memory, seed)
        assert all(torch.equal(alone[name], state[name]) for name in alone)
        assert not torch.equal(alone["stem.norm.running_mean"], torch.zeros_like(alone["stem.norm.running_mean"]))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_share_a_compiled_network_on_images_of_their_own_shape(precision):
    """The order of weights depends on the shape, and each call must use that of its own."""
    net = iso.create_model("ms_resnet8", T=2).eval().compile_for_inference(precision)
    inputs = [torch.randn(batch, 3, side, side) for batch, side in ((1, 8), (2, 12), (3, 16), (2, 9))]
    alone = [net(x) for x in inputs]

    def ask(barrier, x):
        barrier.wait()
        return [net(x) for _ in range(8)]

    together = at_once(*(lambda barrier, x=x: ask(barrier, x) for x in inputs))
    for expected, answers in zip(alone, together, strict=True):
        assert all(torch.equal(answer, expected) for answer in answers)
