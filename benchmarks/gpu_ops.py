"""For ``gpu.py``: the Triton kernels against the reference, first their numbers and then their times."""

import os
import statistics
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
import torch.nn.functional as F

from isospike.neurons import NEURONS, SpikingNeuron
from isospike.ops import FireRule, reference
from isospike.ops.fired import fired
from isospike.ops.firing import Firing
from isospike.ops.gpu import leaky_fire as fire
from isospike.ops.gpu import norm_fire as norm
from isospike.ops.gpu.leaky_fire import leaky_fire
from isospike.ops.gpu.norm_fire import norm_fire
from isospike.ops.gpu.packed_conv import packed_conv
from isospike.registry import build
from isospike.surrogates import SURROGATES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":  # in the interpreter a program takes its time, whatever its size
    fire.FORWARD_BLOCK = fire.BACKWARD_BLOCK = norm.TILE = 2**14
OPTIONS = {"lif": {"decay": 0.3}}
NETWORK = {
    "kind": "lif",
    "decay": 0.25,
    "v_threshold": 0.5,
    "surrogate": "rectangle",
    "strict": True,
    "detach_reset": True,
}
SLEEP = 20_000_000  # clocks of the device, some 10 ms: longer than the host takes to launch what is timed
PACKED = "packed convolution"
BOUNDS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}  # of gradients, relative


def neurons():
    """Every neuron, and every surrogate and reset of one of them."""
    for kind in NEURONS:
        neuron = build(NEURONS, {"kind": kind, **OPTIONS.get(kind, {})})
        if isinstance(neuron, SpikingNeuron):
            yield kind, neuron
    for surrogate in SURROGATES:
        for name, reset in {"value": {"v_reset": -0.25}, "subtract": {"reset": "subtract", "strict": True}}.items():
            yield f"plif {surrogate} {name}", build(NEURONS, {"kind": "plif", "surrogate": surrogate, **reset})

    yield "network", build(NEURONS, NETWORK)  # of whose currents two bits are kept


def in_turn(x, weight, bias, eps, *, skip, firing):
    """Batch norm, sum and recurrence of the reference: currents and spikes."""
    u = F.batch_norm(x.flatten(0, 1), None, None, weight, bias, True, 0.0, eps).unflatten(0, x.shape[:2]) + skip
    return u, reference.leaky_fire(u, None, decay=firing.decay, gain=firing.gain, rule=firing.rule)[0]


def distance(ours, truth):
    """Between gradients: the length of the difference over that of the truth."""
    difference, length = (ours.float() - truth.float()).norm(), truth.float().norm()
    return (difference / length.clamp_min(1e-12)).item()


def images(shape, dtype):
    x = torch.randn(shape[0] * shape[1], *shape[2:], device=DEVICE, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])


def check_recurrence(neuron, shape, dtype):
    """Bits of spikes and potentials, and the largest distance between gradients."""
    neuron = neuron.to(DEVICE)
    decay, gain = neuron.coefficients()
    learned = [c for c in (decay, gain) if isinstance(c, torch.Tensor)]
    x = images(shape, dtype).requires_grad_()
    runs = []
    for run in (leaky_fire, reference.leaky_fire):
        s, end = run(x, None, decay=decay, gain=gain, rule=neuron.rule)
        torch.manual_seed(1)
        grads = torch.autograd.grad(
            [s, end], [x, *learned], [torch.randn(o.shape, device=DEVICE).to(o) for o in (s, end)], retain_graph=True
        )
        runs.append((s, end, grads))
    (s, end, grads), (s_true, end_true, true) = runs
    gradient = max(distance(a, b) for a, b in zip(grads, true, strict=True))
    case = {
        "spikes_differ": (s != s_true).sum().item(),
        "potential_error": (end - end_true).abs().max().item(),
        "gradient_error": gradient,
    }
    right = torch.equal(s, s_true) and torch.equal(end, end_true) and gradient < BOUNDS[dtype]
    return case | {"right": right}


def check_norm_fire(neuron, shape, dtype):
    """Spikes to the bit for the currents that come with them; currents, statistics and gradients by distance."""
    firing = Firing(*(c.item() if isinstance(c, torch.Tensor) else c for c in neuron.coefficients()), neuron.rule)
    x, skip = (images(shape, dtype).requires_grad_() for _ in range(2))
    weight, bias = (torch.rand(shape[2], device=DEVICE).requires_grad_() for _ in range(2))
    u, s, mean, var = norm_fire(x, weight, bias, 1e-5, skip=skip, firing=firing, added=None, keep=True)
    fired_at = u.detach().float().requires_grad_()
    expected, _ = reference.leaky_fire(fired_at, None, decay=firing.decay, gain=firing.gain, rule=firing.rule)
    torch.manual_seed(1)
    g = torch.randn(s.shape, device=DEVICE).to(s)
    # At the currents of the kernel: where their last bit decides about a spike or a mask, so it does for both.
    (to_current,) = torch.autograd.grad(expected, fired_at, g.float())
    wide = [t.detach().float().requires_grad_() for t in (x, weight, bias, skip)]
    u_true = in_turn(*wide[:3], 1e-5, skip=wide[3], firing=firing)[0]
    pairs = zip(
        torch.autograd.grad(s, [x, weight, bias, skip], g), torch.autograd.grad(u_true, wide, to_current), strict=True
    )
    gradient, current = max(distance(a, b) for a, b in pairs), distance(u, u_true)
    differ = (s.float() != expected).sum().item()
    right = differ == 0 and current < BOUNDS[dtype] and gradient < BOUNDS[dtype]
    return {"spikes_differ": differ, "current_error": current, "gradient_error": gradient, "right": right}


def check_packed_conv(shape, dtype):
    """Whether a convolution of spikes kept as bits gives what the plain one gives, and how far gradients are apart."""
    spikes, _ = leaky_fire(images(shape, dtype).requires_grad_(), None, decay=0.25, gain=1.0, rule=FireRule())
    s = spikes.flatten(0, 1)
    conv = torch.nn.Conv2d(shape[2], 16, 3, padding=1).to(DEVICE, dtype)
    y, y_true = packed_conv(conv, s), conv(s)
    torch.manual_seed(1)
    g, inputs = torch.randn(y.shape, device=DEVICE).to(y), [s, *conv.parameters()]
    pairs = zip(*(torch.autograd.grad(o, inputs, g, retain_graph=True) for o in (y, y_true)), strict=True)
    error = max(distance(a, b) for a, b in [(y, y_true), *pairs])
    return {"error": error, "bits": fired(s).bits is not None, "right": error < BOUNDS[dtype]}


def check_kernels(tiny):
    """Every neuron in every dtype, and the convolution of their spikes; ``right`` only if all of them are.

    On a GPU in as many processes as there are cores: nearly all of the time is the compiler's.
    """
    jobs = [(name, dtype, tiny) for name in [*dict(neurons()), PACKED] for dtype in BOUNDS]
    workers = min(16, os.cpu_count()) if DEVICE == "cuda" else 1
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        found = [*pool.map(check_one, jobs)] if workers > 1 else [*map(check_one, jobs)]
    cases = {name: case for cases in found for name, case in cases.items()}
    wrong = [name for name, case in cases.items() if not case["right"]]
    return {"right": not wrong, "wrong": wrong, "cases": cases}


def check_one(job):
    """The cases of one neuron in one dtype; what breaks down is wrong, and says how."""
    name, dtype, tiny = job
    shape, label = (3, 2, 5, 4, 3) if tiny else (4, 8, 48, 33, 31), str(dtype).removeprefix("torch.")
    checks = {f"{name} {label}": (check_recurrence, shape), f"norm {name} {label}": (check_norm_fire, shape)}
    if name == PACKED:
        checks = {f"{name} {label}": (check_packed_conv, (*shape[:2], 8 * shape[2], *shape[3:]))}
    elif " " in name:
        del checks[f"norm {name} {label}"]
    subject, cases = [dict(neurons())[name]] if name != PACKED else [], {}
    for case, (check, shape) in checks.items():
        torch.manual_seed(0)
        try:
            cases[case] = check(*subject, shape, dtype)
        except Exception as error:  # noqa: BLE001 - a kernel that the compiler refuses is one finding of many
            cases[case] = {"right": False, "broke_down": traceback.format_exc()[-1500:], "said": str(error)[:300]}
    return cases


def seconds_of(works, repeats=20, warm_up=3):
    """Median seconds of every work, run in turn, the device waited for after each."""
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    times = {name: [] for name in works}
    for number in range(warm_up + repeats):
        for name, work in works.items():
            wait()
            began = time.perf_counter()
            work()
            wait()
            if number >= warm_up:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def device_seconds_of(works, repeats=20, warm_up=3):
    """Median seconds that the device alone takes: it sleeps until the host has launched all of a work."""
    if DEVICE == "cpu":
        return seconds_of(works, repeats, warm_up)
    times = {name: [] for name in works}
    for number in range(warm_up + repeats):
        for name, work in works.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(SLEEP)
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            if number >= warm_up:
                times[name].append(begin.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def both_passes(run, x, *parameters):
    """A closure of forward and backward."""
    g = torch.randn_like(x)

    def work():
        torch.autograd.grad(run(x), [x, *parameters], g)

    return work


def time_kernels(tiny):
    """Forward and backward of each operation: kernels, eager reference, and the reference under torch.compile."""
    shape = (2, 2, 4, 4, 4) if tiny else (4, 64, 64, 56, 56)
    neuron = build(NEURONS, NETWORK)
    firing, repeats, rows = Firing(*neuron.coefficients(), neuron.rule), 1 if tiny else 20, []
    coefficients = {"decay": firing.decay, "gain": firing.gain, "rule": firing.rule}
    for dtype in (torch.float32, torch.bfloat16):
        x, skip = images(shape, dtype).requires_grad_(), images(shape, dtype)
        weight, bias = (torch.rand(shape[2], device=DEVICE).requires_grad_() for _ in range(2))

        def recurrence(x):
            return reference.leaky_fire(x, None, **coefficients)[0]

        def norm_skip_fire(x, weight=weight, bias=bias, skip=skip):
            return in_turn(x, weight, bias, 1e-5, skip=skip, firing=firing)[1]

        def fused(x, weight=weight, bias=bias, skip=skip):
            return norm_fire(x, weight, bias, 1e-5, skip=skip, firing=firing, added=None, keep=False).s

        label = str(dtype).removeprefix("torch.")
        works = {
            f"recurrence {label}": {
                "triton": both_passes(lambda x: leaky_fire(x, None, **coefficients)[0], x),
                "reference": both_passes(recurrence, x),
                "compiled": both_passes(torch.compile(recurrence), x),
            },
            f"norm skip recurrence {label}": {
                "triton": both_passes(fused, x, weight, bias),
                "reference": both_passes(norm_skip_fire, x, weight, bias),
                "compiled": both_passes(torch.compile(norm_skip_fire), x, weight, bias),
            },
        }
        for name, sides in works.items():
            sides["copy"] = x.detach().clone
            megabytes = x.numel() * x.element_size() / 1e6
            seconds, alone = seconds_of(sides, repeats), device_seconds_of(sides, repeats)
            rows.append({"work": name, "shape": shape, "mb": megabytes, "seconds": seconds, "device_seconds": alone})
    return {"rows": rows}
