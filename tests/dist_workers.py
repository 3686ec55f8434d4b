"""What the processes of the distributed tests run; each writes what it found to ``{out}.{rank}``."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from isospike.layers import BatchNorm, synchronise_norms


def norm(out: Path) -> None:
    """One forward and backward of a synchronised norm on this process's uneven share of a batch."""
    torch.manual_seed(0)
    x, g = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64) * 2 + 1, torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    rank = dist.get_rank()
    share = slice(0, 3) if rank == 0 else slice(3, 4)
    model = torch.nn.Sequential(BatchNorm(3, scale=0.5)).double()
    synchronise_norms(model, dist.group.WORLD)
    mine = x[:, share].flatten(0, 1).clone().requires_grad_()
    y = model(mine)
    y.backward(g[:, share].flatten(0, 1))
    found = {"y": y.detach(), "dx": mine.grad, "dw": model[0].weight.grad, "db": model[0].bias.grad}
    torch.save({**found, "mean": model[0].running_mean, "var": model[0].running_var}, f"{out}.{rank}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{os.environ['STORE']}", rank=rank, world_size=world)
    try:
        {"norm": norm}[sys.argv[1]](Path(sys.argv[2]))
    finally:
        dist.destroy_process_group()
