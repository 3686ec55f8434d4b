import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from isospike.layers import BatchNorm

WORKERS = Path(__file__).parent / "dist_workers.py"


def run_processes(task: str, folder: Path, world: int = 2) -> list[dict]:
    """Run a task of ``dist_workers.py`` in ``world`` processes and return what each wrote."""
    out = folder / task
    processes = []
    for rank in range(world):
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "STORE": str(folder / "store")}
        command = [sys.executable, str(WORKERS), task, str(out)]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(world)]


@pytest.mark.dist
def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    torch.manual_seed(0)
    x, g = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64) * 2 + 1, torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    norm = BatchNorm(3, scale=0.5).double()
    whole = x.flatten(0, 1).clone().requires_grad_()
    y = norm(whole)
    y.backward(g.flatten(0, 1))
    y, dx = y.detach().unflatten(0, (2, 4)), whole.grad.unflatten(0, (2, 4))

    first, second = run_processes("norm", tmp_path)
    for found, share in ((first, slice(0, 3)), (second, slice(3, 4))):
        torch.testing.assert_close(found["y"], y[:, share].flatten(0, 1))
        torch.testing.assert_close(found["dx"], dx[:, share].flatten(0, 1))
        torch.testing.assert_close(found["mean"], norm.running_mean)
        torch.testing.assert_close(found["var"], norm.running_var)
    torch.testing.assert_close(first["dw"] + second["dw"], norm.weight.grad)
    torch.testing.assert_close(first["db"] + second["db"], norm.bias.grad)
