"""What a backend does not run is said, with its cause: once where "auto" may choose, and at once where it may not."""

import threading
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import isospike as iso
from helpers import Step
from isospike.errors import ConfigError, IsospikeWarning, UnknownName
from isospike.neurons import SpikingNeuron
from isospike.ops import (
    FireRule,
    Firing,
    asked_backend,
    backend,
    leaky_fire,
    norm_fire,
    packed_conv,
    use_backend,
)
from isospike.ops.cpu import library
from isospike.ops.gpu import leaky_fire as fire


@pytest.fixture(autouse=True)
def _nothing_said():
    backend._say_once.cache_clear()
    yield
    backend._say_once.cache_clear()


def network(**rule):
    """Eight layers in training, whose neurons have this in their rule."""
    model = iso.create_model("ms_resnet8", T=2, neuron={"kind": "mlf"} if "higher" in rule else None)
    for neuron in (module for module in model.modules() if isinstance(module, SpikingNeuron)):
        neuron.rule = replace(neuron.rule, **rule)
    return model


def run(model, dtype=torch.float32, autocast=None):
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        return model.to(dtype)(torch.randn(2, 3, 8, 8, dtype=dtype))


CAUSES = [
    ({}, {"autocast": torch.bfloat16}, "it computes in float32, and is given bfloat16"),
    ({}, {"autocast": torch.float16}, "it computes in float32, and is given float16"),
    ({}, {"dtype": torch.float64}, "it computes in float32, and is given float64"),
    ({"surrogate": Step()}, {}, "it does not know the surrogate Step"),
    ({"higher": tuple(range(2, 19))}, {}, "it has room for 16 levels"),
]
each_cause = pytest.mark.parametrize(("rule", "how", "cause"), CAUSES, ids=[cause for *_, cause in CAUSES])


@pytest.mark.compiled
@each_cause
def test_auto_says_once_why_a_network_runs_on_the_reference(rule, how, cause):
    model = network(**rule)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for training in (True, True, False):
            run(model.train(training), **how).sum().backward()
    assert [(w.category, str(w.message)) for w in said] == [
        (IsospikeWarning, f"backend 'cpu' leaves this to the eager reference, several times slower, because {cause}")
    ]


@pytest.mark.compiled
@each_cause
@pytest.mark.parametrize("training", [True, False])
def test_a_backend_asked_for_by_name_refuses_with_the_cause(rule, how, cause, training):
    model = network(**rule).train(training)
    with use_backend("cpu"), pytest.raises(ConfigError, match=f"^backend 'cpu' cannot run this: {cause}$"):
        run(model, **how)
    with use_backend("reference"), warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, **how)


def odd_norm(x):
    return norm_fire(x, torch.ones(8, dtype=x.dtype), torch.zeros(8, dtype=x.dtype), 1e-5)


def odd_neurons(x):
    return leaky_fire(x, decay=0.5, gain=1.0, rule=FireRule())


def odd_convolution(x):
    return packed_conv(nn.Conv2d(8, 8, 3, padding=1).to(x.dtype), x[0])


@pytest.mark.compiled
@pytest.mark.parametrize("op", [odd_norm, odd_neurons, odd_convolution])
def test_every_operation_refuses_alike(op):
    x = torch.randn(2, 2, 8, 4, 4)
    with use_backend("cpu"):
        assert op(x) is not None
        with pytest.raises(ConfigError, match="backend 'cpu' cannot run this: it computes in float32, and is given"):
            op(x.double())
        with pytest.raises(ConfigError, match="backend 'cpu' cannot run this: it runs on plain tensors in the memory"):
            op(x.to("meta"))


@pytest.mark.usefixtures("found_anew")
@pytest.mark.parametrize("op", [odd_norm, odd_neurons, odd_convolution])
def test_every_operation_refuses_without_a_library(op, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    x = torch.randn(2, 2, 8, 4, 4)
    with use_backend("cpu"), pytest.raises(ConfigError, match="backend 'cpu' cannot run this: the compiled library is"):
        op(x)
    with pytest.warns(IsospikeWarning, match="backend 'cpu' leaves this to the eager reference.*install a C compiler"):
        op(x)


@pytest.mark.compiled
@pytest.mark.parametrize("part", ["skip", "added"])
def test_a_fused_pass_names_the_dtype_of_whatever_it_is_given(part):
    x, affine = torch.randn(2, 2, 8, 4, 4), (torch.ones(8), torch.zeros(8), 1e-5)
    given = {part: torch.randn(2, 2, 8, 4, 4).bfloat16(), "firing": Firing(0.5, 1.0, FireRule())}
    with use_backend("cpu"), pytest.raises(ConfigError, match="is given bfloat16"):
        norm_fire(x, *affine, **given)
    with pytest.warns(IsospikeWarning, match="is given bfloat16"):
        assert norm_fire(x, *affine, **given) is None


@pytest.mark.triton
def test_triton_asked_for_by_name_refuses_what_one_pass_has_no_room_for(monkeypatch):
    monkeypatch.setattr(fire, "MAX_STATES", 3)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, affine = torch.randn(4, 2, 8, 2, 2, device=device), (torch.ones(8, device=device), torch.zeros(8, device=device))
    with use_backend("triton"), pytest.raises(ConfigError, match="it has room for 3 steps times levels in one pass"):
        norm_fire(x, *affine, 1e-5, firing=Firing(0.5, 1.0, FireRule()))


@pytest.mark.compiled
def test_nothing_is_said_where_no_backend_has_failed():
    """Eval, streams, hooks, static images, and what transforms or traces a network are no faults of a backend."""
    model, x = iso.create_model("ms_resnet8", T=2), torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsospikeWarning)
        model(x).sum().backward()
        with torch.no_grad():
            model(x)
        hook = model.stages[0][0].branch.register_forward_hook(lambda *_: None)
        model(x)
        hook.remove()
        model.eval()
        model(x)
        model.step(x)
        model.compile_for_inference()(x)
        model.to("meta")(x.to("meta"))
        with FakeTensorMode():
            leaky_fire(torch.empty(2, 2, 3), decay=0.5, gain=1.0, rule=FireRule())


def test_blocks_of_threads_that_overlap_do_not_meet():
    """The second thread enters inside the first one's block and leaves after it."""
    barriers, seen = [threading.Barrier(2, timeout=30) for _ in range(3)], {}

    def first():
        with use_backend("reference"):
            barriers[0].wait()
            barriers[1].wait()
            seen["first, inside"] = asked_backend()
        barriers[2].wait()
        seen["first, outside"] = asked_backend()

    def second():
        barriers[0].wait()
        seen["second, outside"] = asked_backend()
        with use_backend("cpu"):
            barriers[1].wait()
            barriers[2].wait()
            seen["second, inside"] = asked_backend()

    threads = [threading.Thread(target=target) for target in (first, second)]
    with use_backend("triton"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen["main"] = asked_backend()
    assert seen == {
        "first, inside": "reference",
        "first, outside": "auto",
        "second, outside": "auto",
        "second, inside": "cpu",
        "main": "triton",
    }
    assert asked_backend() == "auto"


def test_an_unknown_backend_is_answered_and_the_one_before_comes_back():
    with pytest.raises(UnknownName, match="unknown backend 'cpuu'; nearest: cpu"), use_backend("cpuu"):
        pass
    with use_backend("reference"):
        with pytest.raises(KeyError), use_backend("cpu"):
            raise KeyError
        assert asked_backend() == "reference"
    assert asked_backend() == "auto"
