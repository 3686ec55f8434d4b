"""A NIR graph is the network: read back to the last bit, or what differs is named. Graphs of others by equations."""

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
from isospike.errors import ConfigError, MissingExtra
from isospike.graph import record
from isospike.layers import Conv2d, SpikingReadout
from isospike.models import ProgramNet
from isospike.neurons import ILIF
from isospike.residual import Join

pytestmark = pytest.mark.nir

EXACT = ["if", "lif", "plif", "mlf", "to a value", "tau", "levels", "behind a neuron"]
SUBTRACTS = "takes its threshold from the potential, and does not put it to 0"
HALF = "starts at half a threshold, and takes from its potential what it puts out"
LOSSY = {"subtract": [SUBTRACTS], "ilif": [HALF, "puts out up to 4 at a step, and not 1"]}
SAID = {  # sizes of images that leave a power of two of pixels, whose mean is exact
    "max": 8,
    "average": 8,
    "average with the padding": 7,
    "shortcut": 8,
    "pixels": 4,
    "groups": (9, 4),
}


def facts_of(path):
    import nir

    return json.loads(nir.read(str(path)).metadata["isospike"])


def assert_comes_back(model, path, size):
    net = iso.from_nir(path)
    x, clip = images(model, size=size), clips(model, size=size)
    expected, of_clip = model(x, per_step=True), model(clip, per_step=True)
    assert expected.std() > 0
    assert of_clip.std() > 0
    assert torch.equal(net(x, per_step=True), expected)
    assert torch.equal(net(clip, per_step=True), of_clip)


@pytest.mark.parametrize(
    ("name", "options"), ROWS + REACHING + [row for row in OTHERS if "per_step_norm" not in row[1]], ids=str
)
def test_every_network_comes_back_to_the_last_bit(name, options, tmp_path):
    model = zoo(name, **options)
    size = max(16, model.least_size)
    assert iso.export_nir(model, tmp_path / "net.nir", size=size) == []
    facts = facts_of(tmp_path / "net.nir")
    assert (facts["exact"], facts["differs"], facts["T"]) == (True, [], STEPS)
    assert_comes_back(model, tmp_path / "net.nir", size)


@pytest.mark.parametrize("name", EXACT)
def test_every_neuron_that_nir_has_comes_back_to_the_last_bit(name, tmp_path):
    model = NEURON_LAYERS[name]()
    assert iso.export_nir(model, tmp_path / "net.nir", size=8) == []
    assert_comes_back(model, tmp_path / "net.nir", 8)


@pytest.mark.parametrize("name", SAID)
def test_every_pool_that_nir_can_say_comes_back_to_the_last_bit(name, tmp_path):
    model = pooled(name)
    assert iso.export_nir(model, tmp_path / "net.nir", size=SAID[name]) == []
    assert_comes_back(model, tmp_path / "net.nir", SAID[name])


@pytest.mark.parametrize("name", LOSSY)
def test_what_nir_cannot_say_of_neurons_is_refused_or_listed(name, tmp_path):
    """The file holds the nearest neurons, and for us what they were."""
    import nir

    model, path = NEURON_LAYERS[name](), tmp_path / "net.nir"
    with pytest.raises(ConfigError, match=f"cannot say that neuron 'layers.1' {LOSSY[name][0]}: export it with"):
        iso.export_nir(model, path, size=8)
    assert not path.exists()
    losses = iso.export_nir(model, path, lossy=True, size=8)
    assert losses == [f"neuron 'layers.1' {loss}" for loss in LOSSY[name]]
    assert (facts_of(path)["exact"], facts_of(path)["differs"]) == (False, losses)
    assert_comes_back(model, path, 8)
    graph = nir.read(str(path))
    graph.nodes["layers_1"].metadata = {}
    nir.write(str(path), graph)
    assert not torch.equal(iso.from_nir(path)(images(model, size=8)), model(images(model, size=8)))


def with_readout():
    named = {"conv": conv(), "spike": neuron("if"), "flat": nn.Flatten(), "fc": nn.Linear(2 * 64, 4)}
    named["readout"] = SpikingReadout()

    def forward(x, steps):
        for module in named.values():
            x = steps.through(module, x)
        return [x]

    return ProgramNet(record(forward, 2), named, T=STEPS).eval()


SIGNED = {"multi_threshold": "SignedIF", "differential": "Changes"}
READOUTS = {
    "s_resnet": "neuron 'readout' puts out spikes and what a softmax of the rest has grown by, and not its currents",
    "ltb": "neuron 'readout' leaves the logits before its delay out of their mean",
}


@pytest.mark.parametrize("method", iso.list_methods())
def test_of_a_converted_network_every_loss_is_listed(method, tmp_path):
    """By every method. What from_nir has again, is the network but for its output layer."""
    kind = "qcfs" if method == "qcfs" else "relu"
    ann = enliven(iso.create_ann_twin("vanilla_resnet8", num_classes=5, neuron={"kind": kind})).eval()
    ann.head.fc.bias.data += 1
    x, path = torch.randn(4, 3, 8, 8), tmp_path / "net.nir"
    options = {"delay": 1} if method == "ltb" else {}
    model = iso.convert(ann, x, method, T=3, **options)
    if method in SIGNED:
        with pytest.raises(ConfigError, match=f"NIR has no neurons like '.*', a {SIGNED[method]}: train with IF"):
            iso.export_nir(model, path, lossy=True, size=8)
        assert not path.exists()
        return
    with pytest.raises(ConfigError, match=f"NIR cannot say that .* {HALF}: export it with lossy=True, or as ONNX"):
        iso.export_nir(model, path, size=8)
    spiking = [name for name, m in model.named_modules() if isinstance(m, ILIF)]
    expected = [f"neuron '{name}' {HALF}" for name in spiking]
    expected += [READOUTS[method]] if method in READOUTS else []
    assert iso.export_nir(model, path, lossy=True, size=8) == facts_of(path)["differs"] == expected
    if method not in READOUTS:
        found = iso.from_nir(path)(x, per_step=True)
        torch.testing.assert_close(found, model(x, per_step=True), rtol=1e-4, atol=1e-4)


OTHER_LOSSES = {
    "max pool 'layers.2' takes the largest of a window, and not the mean": NEURON_LAYERS["spiking max pool"],
    "neuron 'readout' puts out spikes and what a softmax of the rest has grown by, and not its currents": with_readout,
    "norm 'stages.0.0.branch.norm1' has weights for every step, and not their means": (
        lambda: zoo("ms_resnet8", per_step_norm=True)
    ),
    "max pool 'layers.1' takes the largest of a window, and not the mean": lambda: layers(conv(), nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("loss", OTHER_LOSSES)
def test_other_losses_are_refused_or_listed(loss, tmp_path):
    model, path = OTHER_LOSSES[loss](), tmp_path / "net.nir"
    with pytest.raises(ConfigError, match=f"NIR cannot say that {loss}"):
        iso.export_nir(model, path, size=8)
    losses = iso.export_nir(model, path, lossy=True, size=8)
    assert losses[0].startswith(loss)
    assert iso.from_nir(path)(images(model, size=8)).shape == (2, 4 if "readout" in loss else 5)


def test_edges_grow_with_the_depth_and_not_with_its_square(tmp_path):
    """Both where the stream is a running sum and where sums are links between all stages."""
    import nir

    def edges(depth):
        iso.export_nir(zoo(f"ms_resnet{depth}"), tmp_path / "net.nir", size=8)
        return len(nir.read(str(tmp_path / "net.nir")).edges)

    first, second, third = map(edges, (8, 14, 20))
    assert second - first == third - second


REFUSED = {
    "a product": (lambda: zoo("sew_resnet8", join="and"), "multiplies none, as the join behind 'stages"),
    "a rectifier": (NEURON_LAYERS["relu"], "NIR has no neurons like 'layers.1', a ReLU: train with IF"),
    "windows beyond": (lambda: pooled("max, a window beyond"), "max pool 'layers.2' has windows that no pool of NIR"),
    "a border": (
        lambda: pooled("average without it"),
        "average pool 'layers.2' divides by other numbers at",
    ),
    "a layer": (lambda: layers(conv(), neuron("if"), nn.Softmax(1)), "NIR has no node for layer 'layers.2', a Softmax"),
    "2x3 weights": (lambda: layers(conv(), neuron("if"), Conv2d(2, 2, (2, 3))), "layer 'layers.2' has weights of 2x3"),
    "a dtype": (lambda: layers(conv(), neuron("if")).double(), "float32, and this model is torch.float64"),
    "a size": (lambda: zoo("ms_resnet8"), "give size="),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_said_at_all_is_refused_even_lossy(what, tmp_path):
    make, text = REFUSED[what]
    with pytest.raises(ConfigError, match=text):
        iso.export_nir(make(), tmp_path / "net.nir", lossy=True, size=None if what == "a size" else 7)
    assert not list(tmp_path.iterdir())


def test_a_device_without_a_kind_of_node_is_refused(tmp_path):
    path, kinds = tmp_path / "net.nir", {"Conv2d", "Input", "LIF", "Output", "SumPool2d"}
    text = r"the device lacks operators of this network: LIF \(7x\); it must have Conv2d, Input, LIF, Output, SumPool2d"
    with pytest.raises(ConfigError, match=text):
        iso.export_nir(zoo("ms_resnet8"), path, operators=kinds - {"LIF"}, size=8)
    assert not path.exists()
    assert iso.export_nir(zoo("ms_resnet8"), path, operators=kinds, size=8) == []


def test_joins_of_ones_own_and_hooks_are_refused(tmp_path):
    model = zoo("sew_resnet8")
    model.stages[0][0].join = Join("most", torch.maximum, neutral=0, binary=True)
    with pytest.raises(ConfigError, match="join 'most' is not made of"):
        iso.export_nir(model, tmp_path / "net.nir", size=8)
    model = zoo("sew_resnet8")
    model.head.fc.register_forward_hook(lambda *_: None)
    with pytest.raises(ConfigError, match=r"a hook sees layer 'head\.fc'"):
        iso.export_nir(model, tmp_path / "net.nir", size=8)


def test_every_join_is_tried():
    assert {options["join"] for _, options in JOINED} == {"and", "iand"}


# Graphs of others ----------------------------------------------------------------------------------------------------


def graph_of(*nodes, edges=None, image=(2, 4, 4)):
    """Nodes in a row, or with edges."""
    import nir

    named = {"input": nir.Input({"input": np.array(image)})}
    named |= {f"n.{number}": node for number, node in enumerate(nodes)}
    named["output"] = nir.Output({"output": None})
    names = list(named)
    return nir.NIRGraph(named, edges or list(zip(names, names[1:], strict=False)))


def written(graph, path):
    import nir

    nir.write(str(path), graph)
    return path


def test_a_graph_of_others_by_the_equations(tmp_path):
    """Every node, beside a few lines of NumPy; T and the step of time are given."""
    import nir

    rng = np.random.default_rng(0)
    bias = rng.standard_normal(3)
    matrix, offset = rng.standard_normal((4, 12)), rng.standard_normal(4)
    whole = np.full((3, 2, 2), 1.0)
    nodes = (
        nir.Scale(np.array([0.5, 2.0])[:, None, None] * np.ones((2, 4, 4))),
        nir.Scale(np.full((2, 4, 4), 1.5)),
        nir.Conv2d(None, rng.standard_normal((3, 2, 3, 3)), 1, "same", 1, 1, bias),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.LIF(tau=whole * 0.02, r=whole * 3, v_leak=whole * 0, v_threshold=whole * 0.5, v_reset=whole * -0.25),
        nir.IF(r=whole * 0.75, v_threshold=whole * 1.25),
        nir.AvgPool2d(np.array([1, 1]), np.array([1, 1]), np.array([0, 0])),
        nir.Flatten({"input": np.array([3, 2, 2])}, 0, -1),
        nir.Affine(matrix, offset),
    )
    net = iso.from_nir(written(graph_of(*nodes), tmp_path / "net.nir"), T=4, dt=0.01)
    x = torch.randn(5, 2, 4, 4)
    current = x * torch.tensor([0.75, 3.0])[:, None, None]
    current = nn.functional.conv2d(current.double(), torch.from_numpy(nodes[2].weight), torch.from_numpy(bias), 1, 1)
    current = nn.functional.avg_pool2d(current, 2) * 4
    v = w = torch.zeros_like(current)
    expected = []
    for _ in range(4):
        v = v + 0.01 / 0.02 * (3 * current - v)
        s = (v > 0.5).double()
        v = torch.where(s == 1, -0.25, v)
        w = w + 0.75 * s
        z = (w > 1.25).double()
        w = torch.where(z == 1, 0.0, w)
        expected.append(z.flatten(1) @ torch.from_numpy(matrix).T + torch.from_numpy(offset))
    expected = torch.stack(expected)
    assert expected.std(0).max() > 0
    torch.testing.assert_close(net(x, per_step=True).double(), expected, rtol=1e-5, atol=1e-5)


def test_edges_into_one_node_are_added_and_a_threshold_is_above(tmp_path):
    import nir

    one = np.array([1.0])
    linear = {"a": nir.Linear(np.array([[1.0]])), "b": nir.Linear(np.array([[-3.0]]))}
    nodes = {"input": nir.Input({"input": np.array([1, 1, 1])}), "flat": nir.Flatten({"input": np.array([1, 1, 1])}, 0)}
    nodes |= {**linear, "fires": nir.Threshold(one), "output": nir.Output({"output": np.array([1])})}
    edges = [("input", "flat"), ("flat", "a"), ("flat", "b"), ("a", "fires"), ("b", "fires"), ("fires", "output")]
    net = iso.from_nir(written(nir.NIRGraph(nodes, edges), tmp_path / "net.nir"), T=1)
    x = torch.tensor([-0.25, -0.5, -0.5000001, -2.0]).view(-1, 1, 1, 1)
    assert net(x).flatten().tolist() == [0, 0, 1, 1]


def bad_graphs():
    import nir

    ones = np.ones((2, 4, 4))
    noise = np.random.default_rng(0).random((2, 4, 4))
    mixed = np.stack([np.ones((4, 4)), np.full((4, 4), 2.0)])
    lif = {"tau": ones, "r": ones, "v_leak": ones, "v_threshold": ones}
    loop = [("input", "n.0"), ("n.0", "n.1"), ("n.1", "n.0"), ("n.1", "output")]
    return {
        "node 'n.0' is a Delay, and there are readers for Conv2d": graph_of(nir.Delay(ones)),
        "node 'n.0', a IF: its neurons differ in v_threshold, from 1 to 2": graph_of(nir.IF(ones, mixed)),
        "node 'n.0', a LIF: its potential leaks to 1": graph_of(nir.LIF(**lif)),
        "node 'n.0', a IF: v_threshold must be a number greater than 0": graph_of(nir.IF(ones, -ones)),
        "node 'n.0', a Scale: it scales every pixel otherwise": graph_of(nir.Scale(noise)),
        "nodes n.0, n.1, output read each other: loops": graph_of(nir.Scale(ones), nir.Scale(ones), edges=loop),
        "output 'output' is [2, 4, 4]": graph_of(nir.Scale(ones)),
        "reads one image [C, H, W], and input 'input' is [2]": graph_of(nir.Scale(np.ones(2)), image=(2,)),
    }  # fmt: skip


def test_graphs_that_are_none_of_ours_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "net.nir"
    for text, graph in bad_graphs().items():
        written(graph, path)
        with pytest.raises(ConfigError) as refused:
            iso.from_nir(path, T=2)
        assert text in str(refused.value)
    written(graph_of(neuron_node()), path)
    with pytest.raises(ConfigError, match="does not say how many time steps a static image is shown: give T="):
        iso.from_nir(path)
    for damage in (b"", b"hello", path.read_bytes()[:2000]):
        path.write_bytes(damage)
        with pytest.raises(ConfigError, match="cannot be read as a NIR graph"):
            iso.from_nir(path, T=2)
    with pytest.raises(ConfigError, match="absent.nir cannot be read"):
        iso.from_nir(tmp_path / "absent.nir")


def neuron_node():
    import nir

    return nir.IF(np.ones((2, 4, 4)), np.ones((2, 4, 4)))


def test_what_images_must_be_comes_along(tmp_path):
    model = zoo("ms_resnet8")
    model.inputs = iso.Inputs(16, (0.5,) * 3, (0.25,) * 3, tuple("abcde"))
    iso.export_nir(model, tmp_path / "net.nir")
    assert iso.from_nir(tmp_path / "net.nir").inputs == model.inputs


def test_without_the_extra_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    for call in (lambda: iso.export_nir(zoo("ms_resnet8"), tmp_path / "x", size=16), lambda: iso.from_nir("x")):
        with pytest.raises(MissingExtra, match=r"pip install 'isospike\[nir\]'"):
            call()
