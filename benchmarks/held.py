"""What a process holds where the allocator keeps freed memory, beside what is alive: training steps at 32x32.

python benchmarks/held.py
"""

import subprocess
import sys
from statistics import median

import isospike as iso
from common import header, save
from isospike.train.plan import PROCESS, plan_training

CASES = [
    ("ms_resnet20", 48, 4),
    ("ms_resnet20", 100, 6),
    ("sew_resnet20", 64, 4),
    ("vanilla_resnet20", 64, 4),
    ("ms_resnet56", 24, 4),
    ("ms_resnet18", 32, 4),
    ("da_nsc_resnet20", 32, 4),
    ("ds_resnet20", 32, 4),
]
STEPS = """
import sys, torch, torch.nn.functional as F
import isospike as iso
from isospike.ops import memory
from isospike.train.memory import keep_freed_memory, peak_memory_mb
name, batch, T, blocks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if blocks == "aligned":
    memory.LARGE = sys.maxsize
keep_freed_memory()
cpu = torch.device("cpu")
before = peak_memory_mb(cpu)
model = iso.create_model(name, T=T)
for _ in range(3):
    F.cross_entropy(model(torch.randn(batch, 3, 32, 32)), torch.randint(0, 10, (batch,))).backward()
    model.zero_grad()
print(peak_memory_mb(cpu) - before)
"""


def held_mb(name, batch, T, blocks):
    """Of a process of its own, where the compiled library writes into "plain" or "aligned" memory."""
    command = [sys.executable, "-c", STEPS, name, str(batch), str(T), blocks]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    rows = []
    for name, batch, T in CASES:
        plan = plan_training(iso.create_model(name, T=T), batch=batch, size=32, memory="fast", moments=0)
        row = {"model": name, "batch": batch, "T": T, "alive_mb": plan.alive / 1e6}
        for blocks in ("plain", "aligned"):
            held = [held_mb(name, batch, T, blocks) for _ in range(5)]
            factor = (median(held) - (PROCESS + plan.weights) / 1e6) / row["alive_mb"]
            row[blocks] = {"held_mb": held, "factor": factor}
        rows.append(row)
        factors = ", ".join(f"{row[blocks]['factor']:.2f}x held in {blocks} memory" for blocks in ("plain", "aligned"))
        print(f"{name}, batch {batch}, T={T}: {row['alive_mb']:.0f} MB alive, {factors}", flush=True)
    save("held", {"header": header("python benchmarks/held.py"), "rows": rows})


if __name__ == "__main__":
    main()
