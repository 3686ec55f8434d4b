"""Small passes of a compiled network are made again on the same memory: to the same bits, by one thread at a time."""

import copy
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import isospike as iso
from helpers import enliven
from isospike.errors import RunFailed
from isospike.inference import compiled, replay
from isospike.ops.cpu.calls import LibraryCall, noted
from isospike.ops.memory import Arena
from isospike.ops.pointwise import Span

pytestmark = pytest.mark.compiled


def make(name="ms_resnet8", **options):
    torch.manual_seed(0)
    return enliven(iso.create_model(name, T=3, num_classes=10, **options)).eval()


def images(count=1, seed=0, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def replays(net):
    return [found for found in net._replays._found.values() if found is not None]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_every_network_says_the_same_bits_again(topology, precision):
    model = make(f"{topology}_resnet8", width=16)
    net = model.compile_for_inference(precision)
    for seed in range(4):
        x = images(2, seed)
        assert torch.equal(net(x, per_step=True), model.compile_for_inference(precision)(x, per_step=True))
    (again,) = replays(net)
    assert sum(isinstance(step, LibraryCall) for step in again.steps) >= len(again.steps) / 2


@pytest.mark.parametrize("method", ["percentile", "multi_threshold", "differential"])
def test_what_the_library_does_not_know_is_computed_anew(method):
    ann = make("vanilla_resnet8", neuron="relu")
    converted = iso.convert(ann, images(40), method=method, T=4)
    net = converted.compile_for_inference()
    for seed in range(4):
        assert torch.equal(net(images(2, seed)), converted.compile_for_inference()(images(2, seed)))
    assert replays(net)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_every_stream_says_the_same_bits_again(topology, precision, steps):
    model = make(f"{topology}_resnet8", width=16)
    net = model.compile_for_inference(precision)
    for seed in range(2):
        assert all(map(torch.equal, stream(net, seed, steps), stream(without_replays(model, precision), seed, steps)))
    assert len(replays(net)) == 1


def without_replays(model, precision="float32"):
    net = model.compile_for_inference(precision)
    net._replayed = lambda maps, span, states: None
    return net


def stream(net, seed, steps=1):
    """The logits of eight steps of two images."""
    maps, states = net.begin(images(2, seed)), {}
    with torch.inference_mode():
        return [net.steps(maps, states, range(start, start + steps), 2) for start in range(0, 8, steps)]


def test_streams_of_a_converted_network_and_of_norms_that_know_the_step():
    ann = make("vanilla_resnet8", neuron="relu")
    models = [iso.convert(ann, images(40), method=method, T=8) for method in ("s_resnet", "ltb", "differential")]
    models.append(enliven(iso.create_model("ms_resnet8", T=8, per_step_norm=True)).eval())
    for model in models:
        net = model.compile_for_inference()
        for seed in range(1, 4):
            assert all(map(torch.equal, stream(net, seed), stream(without_replays(model), seed)))
        assert len(replays(net)) == 1


def test_inputs_that_differ_in_time_steps_or_threads_have_their_own_pass():
    model, threads = make(), torch.get_num_threads()
    net, moving = model.compile_for_inference(), torch.stack([images(seed=seed) for seed in range(3)])
    expected = [model.compile_for_inference()(x, T=T) for x, T in ((images(), None), (images(), 2), (moving, None))]
    for _ in range(3):
        found = [net(images()), net(images(), T=2), net(moving)]
        assert all(map(torch.equal, found, expected))
    assert len(replays(net)) == 3
    try:
        torch.set_num_threads(threads + 1)
        net(images())
    finally:
        torch.set_num_threads(threads)
    assert len(net._replays._found) == replay.MOST
    net(images(3))
    assert len(net._replays._found) == replay.MOST  # the first one is forgotten


def test_what_was_handed_out_stays():
    net = make().compile_for_inference()
    for _ in range(2):
        net(images())
    first = net(images(), per_step=True)
    before = first.clone()
    net(images(seed=1))
    assert torch.equal(first, before)


def test_memory_that_is_held_has_a_limit(monkeypatch):
    net = make().compile_for_inference()
    monkeypatch.setattr(compiled, "LARGEST", replay.MAPS * 3 * 32 * 32 * 16 * 4)  # bytes, for one image of 32x32
    monkeypatch.setattr(replay, "LARGEST", 0)
    for size in (16, 32, 33):
        for _ in range(3):
            net(images(size=size))
    assert [found.inputs[net._input].shape[-1] for found in replays(net)] == [32]  # 33 is too large, and 16 had to go


def test_a_second_thread_does_not_wait_and_is_right():
    model = make()
    net = model.compile_for_inference()
    for _ in range(2):
        net(images())
    (again,) = replays(net)
    with again.lock:
        assert again.run({net._input: images()}, Span(3, 1), {}) is None
        assert torch.equal(net(images(seed=1)), model.compile_for_inference()(images(seed=1)))
    expected = [model.compile_for_inference()(images(seed=seed)) for seed in range(4)]
    right = []

    def ask(seed):
        right.extend(torch.equal(net(images(seed=seed)), expected[seed]) for _ in range(50))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 200
    assert all(right)


def test_a_block_is_taken_again_where_it_fits_best_and_is_still_in_the_cache():
    arena = Arena()
    first, large, second = (arena.take((size,), (1,), torch.float32) for size in (14, 62, 14))
    starts = [x.data_ptr() for x in (first, large, second)]
    arena.keep([first, second])
    arena.keep([first])
    assert arena.take((17,), (1,), torch.float32).data_ptr() == starts[1]
    arena.keep([])
    assert [arena.take((7,), (1,), torch.float64).data_ptr() for _ in range(2)] == [starts[0], starts[2]]
    assert arena.take((65,), (1,), torch.uint8).data_ptr() == starts[1]
    assert arena.take((65,), (1,), torch.uint8).data_ptr() not in starts
    assert arena.size == 64 + 256 + 64 + 128  # whole lines, a word behind each tensor included


def test_memory_is_taken_in_turn():
    """As many bytes as are alive at once, and not those of all maps."""
    net = make("ms_resnet56").compile_for_inference()
    for _ in range(2):
        net(images())
    (again,) = replays(net)
    one = 3 * 16 * 16 * 16 * 4  # bytes of the first map at all steps
    assert again.arena.size < 8 * one


def test_a_layer_without_memory_is_said():
    net = make().compile_for_inference()
    for _ in range(2):
        net(images())
    (again,) = replays(net)
    again.steps[0] = LibraryCall(lambda: 1, ())
    with pytest.raises(RunFailed, match="no memory left for a layer: take a smaller batch"):
        net(images())


def test_a_copy_of_the_notes_begins_anew():
    net = make().compile_for_inference()
    for _ in range(2):
        net(images())
    assert not copy.deepcopy(net._replays)._found


def laid_out(x, layout):
    """Bits stay: they have one layout, and a word behind them that kernels read."""
    return x.contiguous(memory_format=layout) if x.dim() == 4 and x.is_floating_point() else x


class SeesPyTorch(TorchDispatchMode):
    """Sees whether PyTorch computes something, beyond views and memory."""

    EMPTY = (torch.ops.aten.empty, torch.ops.aten.empty_strided)

    def __init__(self):
        super().__init__()
        self.computed = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket not in self.EMPTY:  # ``contiguous`` comes here as it is, a view or a copy
            self.computed |= (
                not func.is_view or out.untyped_storage().data_ptr() != args[0].untyped_storage().data_ptr()
            )
        return out


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "plain"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("topology", iso.TOPOLOGIES)
def test_notes_that_are_complete_leave_out_nothing(topology, precision, layout):
    net = make(f"{topology}_resnet8", width=16).compile_for_inference(precision)
    maps, span, complete = {net._input: images(2)}, Span(3, 2), 0
    with torch.inference_mode():
        for operation in net._operations:
            maps = {value: laid_out(x, layout) for value, x in maps.items()}
            with noted() as notes, SeesPyTorch() as seen:
                operation.run(maps, span, {})
            if operation.by_library and notes.complete:
                assert notes.calls
                assert not seen.computed
                complete += 1
    assert complete or layout == torch.contiguous_format
