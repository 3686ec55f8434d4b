"""How much memory a run may take: what the machine has, what its cgroups leave, and what a GPU has."""

import pytest
import torch

import isospike as iso
from isospike.memory import available_memory, available_to_process
from isospike.train import plan as planner
from isospike.train.plan import APART, HOLES, plan_training

GB = 10**9
MEMINFO = (
    "MemTotal:       32000000 kB\nMemFree:          100000 kB\nMemAvailable:   20000000 kB\nHugePages_Total:       0\n"
)


def machine(tmp_path, membership):
    """A fake /proc and /sys/fs/cgroup, of a machine whose memory is nearly all page cache."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "self" / "cgroup").write_text(membership)
    return proc, cgroups


def version_2(folder, limit, used, active, inactive):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 7\ninactive_file {inactive}\nactive_file {active}\n")


def version_1(folder, limit, used, active, inactive):
    """Whose statistics without ``total_`` leave out the cgroups below."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"inactive_file 1\nactive_file 2\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    )


VERSIONS = pytest.mark.parametrize(
    ("write", "mount", "membership", "unlimited"),
    [
        (version_2, ".", "0::{path}\n", "max"),
        (version_1, "memory", "9:name=systemd:/\n4:cpu,memory:{path}\n0::/\n", 2**63 - 4096),
    ],
    ids=["v2", "v1"],
)


def test_page_cache_is_free_on_a_machine_without_cgroups(tmp_path):
    proc, cgroups = machine(tmp_path, "")
    assert available_to_process(proc, cgroups) == 20_000_000 * 1024
    (proc / "self" / "cgroup").unlink()
    assert available_to_process(proc, cgroups) == 20_000_000 * 1024


@VERSIONS
def test_page_cache_is_free_in_a_limited_cgroup(tmp_path, write, mount, membership, unlimited):
    """A limit of 8 GB, 7.9 of them held, of which 5 are files that were read."""
    proc, cgroups = machine(tmp_path, membership.format(path="/"))
    write(cgroups / mount, 8 * GB, 79 * GB // 10, active=3 * GB, inactive=2 * GB)
    assert available_to_process(proc, cgroups) == 51 * GB // 10


@VERSIONS
def test_the_tightest_limit_of_all_parents_counts(tmp_path, write, mount, membership, unlimited):
    proc, cgroups = machine(tmp_path, membership.format(path="/jobs/mine"))
    write(cgroups / mount, unlimited, 30 * GB, active=0, inactive=0)
    write(cgroups / mount / "jobs", 6 * GB, 2 * GB, active=0, inactive=1 * GB)
    write(cgroups / mount / "jobs" / "mine", 7 * GB, 1 * GB, active=0, inactive=0)
    write(cgroups / mount / "jobs" / "other", 1 * GB, 1 * GB, active=0, inactive=0)
    assert available_to_process(proc, cgroups) == 5 * GB
    write(cgroups / mount / "jobs" / "mine", 3 * GB, 1 * GB, active=0, inactive=0)
    assert available_to_process(proc, cgroups) == 2 * GB


@VERSIONS
def test_no_limit_leaves_what_the_machine_has(tmp_path, write, mount, membership, unlimited):
    proc, cgroups = machine(tmp_path, membership.format(path="/"))
    write(cgroups / mount, unlimited, 30 * GB, active=0, inactive=0)
    assert available_to_process(proc, cgroups) == 20_000_000 * 1024


@VERSIONS
@pytest.mark.parametrize("path", ["/docker/0a1b", "/../../docker/0a1b"])
def test_a_container_sees_its_limit_at_the_root(tmp_path, write, mount, membership, unlimited, path):
    """Its path is that of the host, or leads out of what it sees."""
    proc, cgroups = machine(tmp_path, membership.format(path=path))
    write(cgroups / mount, 4 * GB, 3 * GB, active=0, inactive=GB)
    write(tmp_path / "docker" / "0a1b", 1 * GB, 1 * GB, active=0, inactive=0)
    assert available_to_process(proc, cgroups) == 2 * GB


def test_this_machine_has_some():
    assert 1e8 < available_memory(torch.device("cpu")) < 1e14


def test_a_gpu_also_has_what_the_allocator_holds_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GB)
    assert available_memory(torch.device("cuda:1")) == 62 * GB


class OnGPU(torch.nn.Module):
    """What the planner asks of a network, whose one parameter says that it lies on a GPU."""

    class Parameter:
        nbytes, device = 4000, torch.device("cuda")

    def parameters(self, recurse=True):
        return iter([self.Parameter()])


def test_holes_of_malloc_are_those_of_a_cpu(monkeypatch):
    monkeypatch.setattr(planner, "_at_most", lambda batch, lives: (1e9, 1e8))
    model = iso.create_model("ms_resnet8", width=4, T=2)
    parameters = sum(p.nbytes for p in model.parameters())
    on_cpu = plan_training(model, batch=8, size=32, memory="fast")
    assert on_cpu.wasted == HOLES * 1e8 + APART * parameters
    assert plan_training(model, batch=8, size=32, memory="fast", keeps_freed=False).wasted == 0
    assert plan_training(OnGPU(), batch=8, size=32, memory="fast").wasted == 0
