import os
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import isospike as iso
from isospike.errors import CheckpointError
from isospike.train.checkpoint import load_optimizer, optimizer_tensors
from isospike.weights import load_tensors, load_weights, save_tensors

TENSORS = {
    "weight": torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "count": torch.arange(5),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    save_tensors(path, TENSORS, {"step": 3, "share": 0.1})
    tensors, meta = load_tensors(path)
    assert meta == {"step": 3, "share": 0.1}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_same_content_gives_the_same_bytes(tmp_path):
    """Whatever the order in which it comes; safetensors itself writes metadata in another order each time."""
    meta = {"step": 3, "name": 'Zürich \u2028 \x7f\t"', "inner": {"a": 1, "b": [2.5, None]}}
    turned = {**dict(reversed(meta.items())), "inner": dict(reversed(meta["inner"].items()))}
    contents = set()
    for _ in range(8):
        save_tensors(tmp_path / "a", TENSORS, meta)
        save_tensors(tmp_path / "b", dict(reversed(TENSORS.items())), turned)
        contents |= {(tmp_path / name).read_bytes() for name in "ab"}
    assert len(contents) == 1
    assert load_tensors(tmp_path / "b")[1] == meta


@pytest.mark.parametrize("place", [0.02, 0.3, 0.9])
def test_one_changed_bit_is_found(tmp_path, place):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"step": 3})
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x.safetensors is damaged"):
        load_tensors(path)


def test_a_file_that_is_cut_short_foreign_or_missing_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tensors(path)
    save_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_tensors(path)
    torch.save(TENSORS, path)  # a pickle is never opened
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_tensors(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not one that isospike wrote"):
        load_tensors(path)


def test_a_full_disk_leaves_the_checkpoint_before_intact(tmp_path):
    """The disk is played by a limit on the size of files, in a process of its own."""
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(10)}, {"step": 1})
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from isospike.errors import RunFailed\n"
        "from isospike.weights import save_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_tensors(Path(sys.argv[1]), {'a': torch.ones(1_000_000)}, {'step': 2})\n"
        "except RunFailed as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert "the one before is intact" in done.stdout
    assert load_tensors(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_weights_of_another_model_are_refused_by_name_and_shape():
    model = iso.create_model("ms_resnet8")
    load_weights(model, model.state_dict(), "x")
    with pytest.raises(CheckpointError, match=r"'stages.0.1.branch.conv1.weight' is only in other.safetensors"):
        load_weights(model, iso.create_model("ms_resnet14").state_dict(), "other.safetensors")
    with pytest.raises(CheckpointError, match=r"'stages.0.1.branch.conv1.weight' is not in other"):
        load_weights(iso.create_model("ms_resnet14"), model.state_dict(), "other")
    wide = iso.create_model("ms_resnet8", width=32)
    with pytest.raises(CheckpointError, match=r"is \[\d+.*\] in the model and \[\d+.*\] in other"):
        load_weights(model, wide.state_dict(), "other")


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.1)]
)
def test_an_optimiser_goes_on_as_it_was(make):
    def step(model, optimizer):
        torch.manual_seed(1)
        model(torch.randn(4, 3, 8, 8), T=2).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", width=4, neuron={"kind": "plif"})
    optimizer = make(model.parameters())
    step(model, optimizer)
    twin = iso.create_model("ms_resnet8", width=4, neuron={"kind": "plif"})
    load_weights(twin, model.state_dict(), "x")
    other = make(twin.parameters())
    load_optimizer(other, twin, optimizer_tensors(optimizer, model))
    step(model, optimizer)
    step(twin, other)
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
