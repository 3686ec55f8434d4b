"""What a process holds in training steps beside what the planner says, in every mode of memory.

    python benchmarks/held.py

Each run is a process of its own. In mode "fast" the allocator keeps freed memory, in the others it gives it back, as
in ``isospike train``. "Aligned": the compiled library writes into blocks of PyTorch, not into plain memory.
"""

import subprocess
import sys
from statistics import median

import isospike as iso
from common import header, save
from isospike.layers import MEMORY
from isospike.train.plan import plan_training

# Model, batch, T, height and width.
CASES = [
    ("ms_resnet20", 48, 4, 32),
    ("ms_resnet20", 100, 6, 32),
    ("ms_resnet56", 24, 4, 32),
    ("plain_resnet20", 32, 4, 32),
    ("vanilla_resnet20", 64, 4, 32),
    ("sew_resnet20", 64, 4, 32),
    ("ds_resnet20", 32, 4, 32),
    ("da_nsc_resnet20", 32, 4, 32),
    ("da_ncs_resnet20", 32, 4, 32),
    ("ms_resnet18", 32, 4, 32),
    ("ds_resnet18", 16, 4, 64),
    ("da_nsc_resnet18", 32, 4, 64),
    ("sew_resnet34", 4, 4, 128),
    ("ms_resnet18", 8, 4, 224),
    ("ms_resnet18", 16, 4, 224),
    ("ms_resnet34", 8, 4, 224),
    ("sew_resnet18", 8, 4, 224),
]
REPEATS = {"fast": 3, "lean": 1, "leanest": 1}  # what is given back is the same in every run
STEPS = """
import sys, torch, torch.nn.functional as F
import isospike as iso
from isospike.ops import memory
from isospike.malloc import keep_freed_memory, return_freed_memory
from isospike.memory import peak_memory_mb
name, mode, blocks = sys.argv[1], sys.argv[2], sys.argv[3]
batch, T, size = map(int, sys.argv[4:])
if blocks == "aligned":
    memory.LARGE = sys.maxsize
keep_freed_memory() if mode == "fast" else return_freed_memory()
cpu = torch.device("cpu")
before = peak_memory_mb(cpu)
model = iso.create_model(name, T=T)
model.memory = mode
for _ in range(4):
    F.cross_entropy(model(torch.randn(batch, 3, size, size)), torch.randint(0, 10, (batch,))).backward()
    model.zero_grad()
print(peak_memory_mb(cpu) - before)
"""


def held_mb(name, mode, blocks, sizes):
    command = [sys.executable, "-c", STEPS, name, mode, blocks, *map(str, sizes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    rows = []
    for name, batch, T, size in CASES:
        row = {"model": name, "batch": batch, "T": T, "size": size}
        for mode, blocks in [*((mode, "plain") for mode in MEMORY), ("fast", "aligned")]:
            plan = plan_training(iso.create_model(name, T=T), batch=batch, size=size, memory=mode, moments=0)
            held = [
                held_mb(name, mode, blocks, (batch, T, size)) for _ in range(REPEATS[mode] if blocks == "plain" else 1)
            ]
            row[mode if blocks == "plain" else blocks] = {
                "alive_mb": plan.alive / 1e6,
                "plan_mb": plan.total / 1e6,
                "held_mb": held,
                "plan_of_held": plan.total / 1e6 / median(held),
            }
        rows.append(row)
        of_held = ", ".join(f"{mode} {row[mode]['plan_of_held']:.2f}" for mode in (*MEMORY, "aligned"))
        print(f"{name}, batch {batch}, T={T}, {size}x{size}: the plan, of what was held: {of_held}", flush=True)
    save("held", {"header": header("python benchmarks/held.py"), "rows": rows})


if __name__ == "__main__":
    main()
