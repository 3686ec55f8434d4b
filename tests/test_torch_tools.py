"""What PyTorch's own tools make of a model: pickle, export, compile, function transforms, counting operations."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

import isospike as iso
from helpers import SPIKING, enliven, make_neuron
from isospike.ops import leaky_fire
from isospike.residual import JOINS, TOPOLOGIES

SMALLEST = [f"{name}_resnet8" for name in TOPOLOGIES]
OPTIONS = [("sew_resnet8", {"join": join}) for join in JOINS] + [("da_cns_resnet8", {"reach": "fusion"})]


def make(name, **options):
    return enliven(iso.create_model(name, **{"width": 8, "T": 2, **options})).eval()


def images(batch=2):
    return torch.randn(batch, 3, 16, 16)


@pytest.mark.parametrize(("name", "options"), [(name, {}) for name in SMALLEST] + OPTIONS, ids=str)
def test_a_model_is_copied_pickled_and_saved_whole(name, options):
    model, x = make(name, **options), images()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected = model(x)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(again(x), expected)
        again.train()(x).sum().backward()  # its neurons still fire in the pass of the unit before


@pytest.mark.parametrize(("name", "clip"), [("ms_resnet8", False), ("ds_resnet8", True)])
def test_export_leaves_the_batch_open(name, clip):
    model, batch = make(name), torch.export.Dim("B", min=1, max=64)
    inputs = torch.randn(2, 2, 3, 16, 16) if clip else images()
    program = torch.export.export(model, (inputs,), dynamic_shapes=({int(clip): batch},)).module()
    for size in (1, 5):
        x = torch.randn(2, size, 3, 16, 16) if clip else images(size)
        assert torch.equal(program(x), model(x))


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_compile_captures_one_whole_graph_of_the_reference(training):
    torch._dynamo.reset()
    model, x = make("ms_resnet8").train(training), images()
    eager = copy.deepcopy(model)
    logits = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    logits.sum().backward()
    with iso.use_backend("reference"):
        expected = eager(x)
        expected.sum().backward()
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in eager.parameters()])


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_a_unit_is_compiled_where_compile_was_called_on_it(training):
    torch._dynamo.reset()
    model, x, graphs = make("ms_resnet8").train(training), images(), []
    eager = copy.deepcopy(model)
    unit = list(model.units())[1]
    with iso.use_backend("reference"), torch.set_grad_enabled(training):
        model(x)  # what was fused before the unit is compiled is not kept
        unit.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
        model.load_state_dict(eager.state_dict())
        torch.testing.assert_close(model(x), eager(x))
    assert graphs


@pytest.mark.parametrize("kind", SPIKING)
def test_forward_mode_and_reverse_mode_agree_on_every_neuron(kind):
    """<J t, g> = <t, J^T g>, the surrogate's derivative standing for that of the step in both."""
    neuron = make_neuron(kind).double()
    x, t, g = torch.randn(3, 3, 2, 5, dtype=torch.double)
    with iso.use_backend("reference"):
        _, tangent = torch.func.jvp(lambda x: neuron(x)[0], (x,), (t,))
        _, pull = torch.func.vjp(lambda x: neuron(x)[0], x)
    assert tangent.abs().sum() > 0
    torch.testing.assert_close((tangent * g).sum(), (t * pull(g)[0]).sum())


def test_gradients_of_every_sample_are_those_of_its_own_loss():
    model, x = make("ms_resnet8").double(), images(3).double()
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(model, weights, (x,)).square().sum(-1)

    with iso.use_backend("reference"):
        each = torch.func.vmap(torch.func.grad(lambda w, image: loss(w, image[None])[0]), (None, 0))(weights, x)
        for index in range(len(x)):
            alone = torch.func.grad(lambda w, index=index: loss(w, x)[index])(weights)
            torch.testing.assert_close({name: d[index] for name, d in each.items()}, alone)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_the_flop_counter_sees_every_convolution(training, each_backend):
    """Two operations to a multiply-accumulate of the card; the backward pass takes each twice, the stem's once."""
    card = iso.model_card("ms_resnet8")
    model = enliven(iso.create_model("ms_resnet8")).train(training)
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.randn(4, 3, 32, 32))
        assert counter.get_total_flops() == 2 * 4 * card.macs
        logits.sum().backward()
    assert counter.get_total_flops() == 2 * 4 * (3 * card.macs - card.stem_macs)


def test_tensors_without_memory_never_reach_a_kernel():
    """A fake tensor says that it is on the CPU, and has no memory there."""
    model, neuron = make("ms_resnet8").train(), make_neuron("if")
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(images()).shape == (2, 10)
        spikes, _ = leaky_fire(torch.randn(3, 2, 4), decay=0.5, gain=1.0, rule=neuron.rule)
        assert spikes.shape == (3, 2, 4)


def test_an_image_may_be_a_parameter():
    model = make("ms_resnet8")
    image = nn.Parameter(images())
    model(image).square().sum().backward()
    assert image.grad.abs().sum() > 0


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("in_between", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels-last"])
def test_a_model_is_pruned_in_the_plain_order_and_runs_in_both(in_between):
    """Pruned weights are weights with zeros in them, and learn nowhere else."""
    model, x = make("ms_resnet8").train(), images()
    model.to(memory_format=torch.contiguous_format)
    for conv in convolutions(model):
        prune.l1_unstructured(conv, "weight", amount=0.5)
    model.to(memory_format=in_between)
    model(x).square().sum().backward()
    for conv in convolutions(model):
        assert (conv.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
        assert not conv.weight_orig.grad[conv.weight_mask == 0].any()
    model.eval()
    expected = model(x)
    for conv in convolutions(model):
        prune.remove(conv, "weight")
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("parametrise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_convolutions_are_those_of_their_weights(parametrise):
    model, x = make("ms_resnet8"), images()
    for conv in convolutions(model):
        parametrise(conv)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    plain = make("ms_resnet8")
    weights = {name: p for name, p in model.state_dict().items() if "parametrizations" not in name}
    weights |= {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    plain.load_state_dict(weights)
    torch.testing.assert_close(model(x), plain(x))
