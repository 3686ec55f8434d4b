"""What PyTorch's own tools for batch norms make of ours."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel, update_bn

import isospike as iso
from helpers import enliven
from isospike.conversion.capture import as_program
from isospike.errors import ConfigError
from isospike.layers import BatchNorm
from isospike.residual import TOPOLOGIES


def make(name="vanilla_resnet8", **options):
    return enliven(iso.create_model(name, **{"width": 8, "T": 2, **options}))


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("per_step_norm", [False, True])
def test_every_norm_is_one_of_pytorchs(topology, per_step_norm):
    model = iso.create_model(f"{topology}_resnet8", width=8, per_step_norm=per_step_norm)
    assert norms_of(model)
    assert norms_of(model) == [m for m in model.modules() if isinstance(m, BatchNorm)]
    in_norms = {id(p) for norm in norms_of(model) for p in norm.parameters()}
    assert {name.split(".")[-1] for name, p in model.named_parameters() if id(p) in in_norms} == {"weight", "bias"}
    assert not any(name.endswith("num_batches_tracked") for name in model.state_dict())


def test_frozen_norms_keep_their_statistics_and_use_them():
    model = make().train()
    for norm in norms_of(model):
        norm.eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(3, 3, 16, 16)
    logits = model(x)
    logits.sum().backward()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(logits, model.eval()(x))


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_update_bn_gives_the_mean_of_all_batches(memory):
    model = make("ms_resnet8", per_step_norm=True)
    model.memory = memory
    first = model.stem.norm
    seen = []
    first.register_forward_hook(lambda m, args, y: seen.append(torch.var_mean(args[0], (0, 2, 3))))
    update_bn([(torch.randn(size, 3, 16, 16),) for size in (2, 3, 5)], model)
    torch.testing.assert_close(first.running_mean, torch.stack([mean for _, mean in seen]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([var for var, _ in seen]).mean(0))
    assert all(norm.momentum == 0.1 and (norm.running_mean != 0).any() for norm in norms_of(model))
    before = first.running_mean.clone()
    model.train()(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(first.running_mean, before.lerp(seen[-1][1], 0.1))


def test_an_averaged_model_takes_new_statistics():
    averaged = AveragedModel(make())
    averaged.update_parameters(make())
    update_bn([torch.randn(4, 3, 16, 16)], averaged)
    assert averaged.eval()(torch.randn(2, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("options", [{}, {"join": "and"}, {"neuron": {"kind": "plif"}, "join": "and"}], ids=str)
def test_reset_parameters_gives_the_norms_their_own_start(options):
    model = iso.create_model("sew_resnet8", width=8, tail_init=0, **options)
    start = copy.deepcopy(model.state_dict())
    enliven(model)
    for norm in norms_of(model):
        norm.reset_parameters()
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())


def test_weights_of_any_file_load_without_a_count_of_batches():
    model, other = make(), make()
    model.load_state_dict(dict(other.state_dict()))  # without PyTorch's note of versions, as from safetensors
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


HOLDERS = {
    "row": make,
    "row of norms for every step": lambda: make(per_step_norm=True),
    "program": lambda: as_program(make()),
    "own": lambda: nn.Sequential(make().stem.norm),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_convert_sync_batchnorm_synchronises_the_norms_that_are_there(alone, holder):
    """A norm of PyTorch's in their place would lose tdBN's factor."""
    model = HOLDERS[holder]()
    before = norms_of(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert norms_of(converted) == before
    assert all(norm.process_group is alone for norm in before)
    channels = before[0].num_features if holder == "own" else 3
    assert converted.train()(torch.randn(2, channels, 16, 16)).isfinite().all()


def test_fsdp_shards_units_with_the_same_gradients(alone):
    model = make().double().to(memory_format=torch.contiguous_format).train()
    sharded, x = copy.deepcopy(model), torch.randn(2, 3, 16, 16).double()
    mesh = init_device_mesh("cpu", (1,))
    for unit in sharded.units():
        fully_shard(unit, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for net in (model, sharded):
        net(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad.full_tensor(), ours.grad)


def test_norms_are_synchronised_by_a_public_call(alone):
    model = make()
    iso.synchronise_norms(model)
    assert all(norm.process_group is alone for norm in norms_of(copy.deepcopy(model)))
    other = dist.new_group([0])
    iso.synchronise_norms(model, other)
    assert all(norm.process_group is other for norm in norms_of(model))


def test_a_norm_of_another_origin_takes_its_place():
    model, theirs = make(), nn.SyncBatchNorm(8)
    model.stem.norm = theirs
    assert model.stem.norm is theirs
    model.stem.add_module("norm", nn.Identity())
    model.stem.add_module("norm", theirs)
    assert model.stem.norm is theirs


def test_synchronising_without_processes_says_what_to_call_first():
    for synchronise in (iso.synchronise_norms, nn.SyncBatchNorm.convert_sync_batchnorm):
        with pytest.raises(ConfigError, match=r"call torch.distributed.init_process_group first"):
            synchronise(make())
