"""For ``gpu.py``: training steps of whole networks."""

import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

import isospike as iso
from gpu_ops import DEVICE, seconds_of
from isospike.errors import ConfigError
from isospike.train.graphs import CapturedStep


def make(name, T, batch, size):
    """Model, fused optimiser with its learning rate on the device, the loss of a batch under autocast, and a batch."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = iso.create_model(name, T=T, num_classes=10).to(DEVICE).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.01, device=DEVICE), momentum=0.9, fused=True)
    x = torch.randn(batch, 3, size, size, device=DEVICE).contiguous(memory_format=torch.channels_last)
    y = torch.arange(batch, device=DEVICE) % 10

    def loss_of(x, y):
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = model(x)
        return F.cross_entropy(logits.float(), y)

    return model, optimizer, loss_of, (x, y)


def train_step(optimizer, loss_of, inputs):
    """One step of the optimiser on the loss of a batch, which is given back."""
    optimizer.zero_grad()
    loss = loss_of(*inputs)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train_model(name, how, T, batch, size):
    """Seconds and memory of a step: with the kernels, with the eager reference, or with it compiled unit by unit.

    Raises:
        RuntimeError: Nothing was compiled.
    """
    model, optimizer, loss_of, inputs = make(name, T, batch, size)
    if how == "compiled":
        torch._dynamo.config.recompile_limit = 64
        for unit in model.units():
            unit.compile(dynamic=False)
    with iso.use_backend("triton" if how == "triton" else "reference"):
        found = measure(lambda: train_step(optimizer, loss_of, inputs), batch, len(list(model.units())))
        if how == "triton":
            found["host_waits"] = waits(lambda: train_step(optimizer, loss_of, inputs))
    if how == "compiled":
        found["graphs_compiled"] = counters["stats"]["unique_graphs"]  # one per kind of unit, however many there are
        if not found["graphs_compiled"]:
            raise RuntimeError("the compiler was asked for and compiled no unit")
    return found


def measure(step, batch, units):
    """Of one training step."""
    step()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of({"step": step}, repeats=10 if DEVICE == "cuda" else 1)["step"]
    memory = torch.cuda.max_memory_allocated() / 1e6 if DEVICE == "cuda" else None
    return {
        "seconds": seconds,
        "images_per_s": batch / seconds,
        "peak_memory_mb": memory,
        "us_per_unit": seconds / units * 1e6,
    }


def waits(step):
    """What in a step made the host wait for the device; None where nothing did."""
    if DEVICE == "cpu":
        return "not on a CPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def capture(name, T, batch, size):
    """A captured step beside the same step launched kernel by kernel: its losses must be equal, then its time."""
    steps, losses = 4, {}
    with iso.use_backend("triton"):
        _, optimizer, loss_of, inputs = make(name, T, batch, size)
        losses["launched"] = [train_step(optimizer, loss_of, inputs).item() for _ in range(steps)]
        model, optimizer, loss_of, inputs = make(name, T, batch, size)
        try:
            captured = CapturedStep(model, optimizer, lambda *batch: train_step(optimizer, loss_of, batch), inputs)
        except ConfigError as error:
            return {"refused": str(error)}
        losses["captured"] = [captured(*inputs).item() for _ in range(steps)]
        largest = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
        if largest > 1e-2 * max(losses["launched"]):
            return {"failed": "the captured step trains otherwise", "losses": losses}
        return measure(lambda: captured(*inputs), batch, len(list(model.units()))) | {"loss_error": largest}
