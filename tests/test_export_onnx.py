"""An ONNX file computes what the model computes: every row, neuron and pool, in every form, to the last bit."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import isospike as iso
from exported_nets import (
    JOINED,
    NEURON_LAYERS,
    OTHERS,
    POOLS,
    REACHING,
    ROWS,
    clips,
    conv,
    images,
    layers,
    neuron,
    pooled,
    zoo,
)
from exported_nets import T as STEPS
from helpers import enliven
from isospike.errors import ConfigError, MissingExtra, RunFailed, ShapeError, UnknownName
from isospike.export.onnx import FORMS
from isospike.neurons import IF, NEURONS
from isospike.residual import Join

pytestmark = pytest.mark.onnx


def session(model, path, form, x, **options):
    import onnxruntime

    iso.export_onnx(model, path, form, size=tuple(x.shape[-2:]), **options)
    return onnxruntime.InferenceSession(path)


def by_steps(model, path, clip, **options):
    """Logits of every step, potentials carried from one to the next."""
    run = session(model, path, "step", clip, **options)
    facts = json.loads(run.get_modelmeta().custom_metadata_map["isospike"])
    shapes = {given.name: given.shape for given in run.get_inputs()}
    return carried(lambda inputs: run.run(None, inputs), [o.name for o in run.get_outputs()], shapes, facts, clip)


def carried(run, outputs, shapes, facts, clip):
    state = {}
    for name in shapes.keys() - {"x"}:
        shape = [clip.shape[1] if size == "B" else size for size in shapes[name]]
        kind = np.int64 if name == "step" else clip.numpy().dtype
        state[name] = np.full(shape, facts["rests"].get(name, 0), kind)
    logits = []
    for x in clip:
        found = dict(zip(outputs, run({"x": x.numpy(), **state}), strict=True))
        state = {name: found[f"{name}.next"] for name in state}
        logits.append(torch.from_numpy(found["logits"]))
    return torch.stack(logits)


def assert_is_the_model(model, path, x, clip, atol=0.0):
    """Every form, and of no trivial logits."""
    expected, of_clip = (model(inputs, per_step=True).detach() for inputs in (x, clip))
    assert expected.std() > 0
    assert of_clip.std() > 0
    mean, logits = map(torch.from_numpy, session(model, path, "static", x).run(None, {"x": x.numpy()}))
    torch.testing.assert_close(logits, expected, rtol=0, atol=atol)
    torch.testing.assert_close(mean, expected.mean(0), rtol=1e-6, atol=1e-6)
    (logits,) = session(model, path, "clip", clip).run(["per_step"], {"x": clip.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), of_clip, rtol=0, atol=atol)
    torch.testing.assert_close(by_steps(model, path, clip), of_clip, rtol=0, atol=atol)


@pytest.mark.parametrize(("name", "options"), ROWS + JOINED + REACHING + OTHERS, ids=str)
def test_every_network_to_the_last_bit(name, options, tmp_path):
    model = zoo(name, **options)
    size = max(16, model.least_size)
    assert_is_the_model(model, tmp_path / "net.onnx", images(model, size=size), clips(model, size=size))


@pytest.mark.parametrize("name", NEURON_LAYERS)
def test_every_neuron_to_the_last_bit(name, tmp_path):
    """But for a readout, whose softmax rounds, and what divides by a threshold."""
    model = NEURON_LAYERS[name]()
    x, clip = images(model)[..., :6, :7], clips(model)[..., :6, :7]
    assert_is_the_model(model, tmp_path / "net.onnx", x, clip, atol=1e-6 if name in ("readout", "qcfs") else 0)


@pytest.mark.parametrize("name", POOLS)
def test_every_pool_to_the_last_bit(name, tmp_path):
    """Means over 3 and 6 pixels round."""
    model = pooled(name)
    x, clip = images(model)[..., :7, :10], clips(model)[..., :7, :10]
    assert_is_the_model(model, tmp_path / "net.onnx", x, clip, atol=1e-6)


@pytest.mark.parametrize("method", iso.list_methods())
def test_a_converted_network_in_float64_up_to_rounding(method, tmp_path):
    """By every method, with its own neurons and output layer; an image and a stream. ONNX's reference runs float64."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    kind = "qcfs" if method == "qcfs" else "relu"
    ann = enliven(iso.create_ann_twin("vanilla_resnet8", num_classes=5, neuron={"kind": kind})).double().eval()
    ann.head.fc.bias.data += 1  # an output layer that counts spikes needs logits above 0
    x = torch.randn(4, 3, 8, 8).double()
    model = iso.convert(ann, x, method, T=3)
    path = tmp_path / "net.onnx"
    iso.export_onnx(model, path, size=8)
    _, logits = ReferenceEvaluator(str(path)).run(None, {"x": x[:1].numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(x[:1], per_step=True), rtol=0, atol=1e-12)
    iso.export_onnx(model, path, "step", size=8)
    file, run = onnx.load(path), ReferenceEvaluator(str(path))
    shapes = {
        given.name: [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] for given in file.graph.input
    }
    facts, clip = json.loads(file.metadata_props[0].value), x[:3].unsqueeze(1)
    logits = carried(lambda inputs: run.run(None, inputs), run.output_names, shapes, facts, clip)
    torch.testing.assert_close(logits, model(clip, per_step=True), rtol=0, atol=1e-12)


@torch.no_grad()
def with_weights_of_8_bits(model):
    """Between the steps of 1/64 that 8 bits leave, so that rounding them moves them, and all sums stay exact."""
    for conv2d in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        conv2d.weight.add_((conv2d.weight != 0) / 128)
        conv2d.weight[::2, 0, 0, 0], conv2d.weight[1::2, 0, 0, 0] = 127 / 64, -127 / 64
    return model


@pytest.mark.parametrize(("name", "options"), ROWS + JOINED + REACHING + OTHERS, ids=str)
def test_int8_is_our_int8_network_to_the_last_bit(name, options, tmp_path):
    import onnx

    model = with_weights_of_8_bits(zoo(name, **options))
    size, path = max(16, model.least_size), tmp_path / "net.onnx"
    x, clip = images(model, size=size), clips(model, size=size)
    ours = model.compile_for_inference("int8")
    assert ours(x, per_step=True).std() > 0
    assert name != "ms_resnet8" or not torch.equal(ours(x), model(x)), "weights that 8 bits hold prove nothing"
    (logits,) = session(model, path, "static", x, precision="int8").run(["per_step"], {"x": x.numpy()})
    assert torch.equal(torch.from_numpy(logits), ours(x, per_step=True))
    file = onnx.load(path)
    kinds = [node.op_type for node in file.graph.node]
    assert "ConvInteger" in kinds
    assert json.loads(file.metadata_props[0].value)["precision"] == "int8"
    if not model.knows_steps:
        assert torch.equal(by_steps(model, path, clip, precision="int8"), ours(clip, per_step=True))


def test_counts_that_8_bits_cannot_take_stay_real(tmp_path):
    """As in our int8 network: of 130 levels the products of two might not fit into 16 bits."""
    import onnx

    for levels, integers in ((129, 1), (130, 0)):
        model = layers(conv(), neuron("ilif", levels=levels), conv())
        iso.export_onnx(model, tmp_path / "net.onnx", precision="int8", size=8)
        kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
        assert kinds.count("ConvInteger") == integers


def test_norms_are_folded_and_only_neurons_are_unrolled(tmp_path):
    import onnx

    model = zoo("ms_resnet8")
    iso.export_onnx(model, tmp_path / "net.onnx", size=16)
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    neurons = sum(isinstance(module, IF | iso.LIF) for module in model.modules())
    assert (kinds.count("Conv"), kinds.count("Where")) == (convs, neurons * STEPS)


def test_the_batch_is_open_and_the_file_says_what_it_is(tmp_path):
    model = zoo("sew_resnet8")
    model.inputs = iso.Inputs(16, (0.5,) * 3, (0.25,) * 3, tuple("abcde"))
    iso.export_onnx(model, tmp_path / "net.onnx")
    import onnxruntime

    run = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for batch in (1, 5):
        x = images(model, batch)
        assert torch.equal(torch.from_numpy(run.run(["logits"], {"x": x.numpy()})[0]), model(x))
    facts = json.loads(run.get_modelmeta().custom_metadata_map["isospike"])
    assert (facts["form"], facts["T"], facts["inputs"]["classes"]) == ("static", STEPS, list("abcde"))


class Doubled(IF):
    """Neurons of one's own."""

    def forward(self, x, v=None):
        return super().forward(2 * x, v)


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


def with_join(model):
    model.stages[0][0].join = Join("most", torch.maximum, neutral=0, binary=True)
    return model


def hooked(model):
    model.stages[0][0].branch.conv1.register_forward_hook(lambda *_: None)
    return model


OPERATORS = (
    *("Add", "AveragePool", "Cast", "Concat", "Conv", "Gemm", "Greater", "Identity", "Mul", "ReduceMean"),
    *("Reshape", "Split", "Where"),
)
REFUSED = {
    "the size": (lambda: zoo("ms_resnet8"), {"size": None}, ConfigError, "give size=, as in size=32"),
    "a precision": (
        lambda: zoo("ms_resnet8"),
        *({"precision": "int4"}, UnknownName, "precision of ONNX 'int4'; nearest: int8"),
    ),
    "int8 of float64": (
        lambda: zoo("ms_resnet8").double(),
        *({"precision": "int8"}, ConfigError, "'int8' is for float32 models, and this one is float64"),
    ),
    "a small size": (lambda: zoo("ms_resnet8"), {"size": 2}, ShapeError, "smaller than the stride of this network, 4"),
    "a form": (lambda: zoo("ms_resnet8"), {"form": "statik"}, UnknownName, "form of ONNX 'statik'; nearest: static"),
    "operators": (
        lambda: zoo("ms_resnet8"),
        {"operators": set(OPERATORS) - {"Gemm", "ReduceMean"}},
        ConfigError,
        rf"lacks operators of this network: Gemm \(1x\), ReduceMean \(2x\); it must have {', '.join(OPERATORS)}",
    ),
    "operators in one text": (
        lambda: zoo("ms_resnet8"),
        *({"operators": ", ".join(OPERATORS)}, ConfigError, r"give the operators that the device has, as in"),
    ),
    "any module": (lambda: nn.Linear(2, 2), {}, ConfigError, "this is a Linear: create_model, convert"),
    "a dtype": (
        lambda: zoo("ms_resnet8").bfloat16(),
        {},
        ConfigError,
        "float32 or float64, and this model is bfloat16",
    ),
    "a neuron": (lambda: layers(conv(), Doubled(), conv()), {}, ConfigError, "'layers.1', a Doubled with a forward"),
    "a layer": (lambda: layers(conv(), Twice(), conv()), {}, ConfigError, "'layers.1', a Twice with a forward"),
    "a padding": (
        lambda: layers(conv(), neuron("if"), nn.Conv2d(2, 2, 3, padding="same")),
        *({}, ConfigError, "'layers.2', a Conv2d with a forward, a padding"),
    ),
    "a hook": (lambda: hooked(zoo("ms_resnet8")), {}, ConfigError, "stages.0.0.branch.conv1', a Conv2d with a forward"),
    "a join": (lambda: with_join(zoo("sew_resnet8")), {}, ConfigError, "join 'most' is not made of"),
    "a divisor": (
        lambda: layers(conv(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        *({"size": 8}, ConfigError, "average pool 'layers.1' divides by another number"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_file_can_say_is_refused_and_nothing_is_written(what, tmp_path):
    make, options, kind, text = REFUSED[what]
    with pytest.raises(kind, match=text.replace(".", r"\.")):
        iso.export_onnx(make(), tmp_path / "net.onnx", **{"size": 16, **options})
    assert not list(tmp_path.iterdir())


def test_a_device_that_has_all_operators_gets_the_file(tmp_path):
    iso.export_onnx(zoo("ms_resnet8"), tmp_path / "net.onnx", operators=OPERATORS, size=16)
    assert (tmp_path / "net.onnx").is_file()


def test_a_file_that_fails_its_check_leaves_the_one_before(tmp_path, monkeypatch):
    import onnx

    def fails(*_, **__):
        raise onnx.checker.ValidationError("node 7 has no type")

    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr(onnx.checker, "check_model", fails)
    with pytest.raises(RunFailed, match="fails the check of onnx, so nothing is written: node 7 has no type"):
        iso.export_onnx(layers(conv(), neuron("if")), path, size=8)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_without_the_extra_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'isospike\[onnx\]'"):
        iso.export_onnx(layers(conv(), neuron("if")), tmp_path / "net.onnx", size=8)


def test_a_network_beyond_two_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("isospike.export.onnx.LARGEST", 100)
    with pytest.raises(ConfigError, match="an ONNX file holds 2 GB"):
        iso.export_onnx(layers(conv(), neuron("if")), tmp_path / "net.onnx", size=8)
    assert not list(tmp_path.iterdir())


def test_registries_are_covered():
    assert set(NEURONS) <= set(NEURON_LAYERS)
    assert set(FORMS) == {"static", "clip", "step"}
