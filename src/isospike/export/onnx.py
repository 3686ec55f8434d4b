"""``export_onnx``: a network as an ONNX file."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from isospike.errors import ConfigError, RunFailed
from isospike.export.onnx_graph import Graph
from isospike.export.onnx_program import AllSteps, OneStep
from isospike.export.outgoing import Outgoing, Size, check_operators, checked_form, outgoing
from isospike.inference.convolution import integer_maps
from isospike.registry import unknown_name
from isospike.writing import atomic_write

FORMS = ("static", "clip", "step")
OPSET, IR = 18, 9  # of 2022: runtimes of small devices read no newer ones
DTYPES = ("float32", "float64")
PRECISIONS = ("float32", "int8")
LARGEST = 2**31 - 2**20  # bytes of a protobuf, and some for its nodes


def export_onnx(
    model: nn.Module,
    path: Path | str,
    form: str = "static",
    *,
    precision: str = "float32",
    operators: Collection[str] | None = None,
    size: Size | None = None,
) -> None:
    """Write a trained network as ONNX, for any runtime that knows operators of opset 18.

    The file is made of the program of the network, not of a trace. Norms are folded into convolutions in float64. The
    batch is open, T and the size of images are fixed. The forms:

    - "static": ``x [B, C, H, W]``, an image that stands still for the T steps of the model, to ``logits [B, K]``, their
      mean over time, and ``per_step [T, B, K]``. Convolutions see all steps as one batch; neurons alone are unrolled.
    - "clip": the same of ``x [T, B, C, H, W]``, an input for every step.
    - "step": ``x [B, C, H, W]`` of one step and the potentials before it, an input for every layer of neurons under
      its name behind ``v.`` (or several, as ``v.NAME.told``), to ``logits [B, K]`` of this step and the potentials
      after it, under the same names and ``.next``. Those before the first step are full of the number that ``rests``
      in the metadata ``isospike`` has for them, 0 as a rule. Norms and neurons that know the step add ``step [1]``,
      counted from 0.

    Args:
        model: A spiking network of this package, trained or converted, or an ANN twin; in float32 or float64.
        path: The file.
        form: One of these.
        precision: "float32" (the model's own dtype), or "int8": weights of convolutions that read spikes or counts are
            8-bit integers, and their sums exact, as in ``compile_for_inference``.
        operators: Those that the runtime of the device has, as "Conv". None: all of opset 18.
        size: Height and width of the images. None: what the model says of its inputs.

    Raises:
        ConfigError: there is no such form or precision, a layer has no operators, the device lacks one of them, or the
            network does not fit into a file.
        MissingExtra: onnx is not installed.
        RunFailed: the file fails the check of onnx, or the disk does not take it.
    """
    checked_form("ONNX", form, FORMS)
    net = outgoing(model, size)
    dtype = str(net.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigError(f"ONNX files are written in {' or '.join(DTYPES)}, and this model is {dtype}: call .float()")
    if precision not in PRECISIONS:
        raise unknown_name("precision of ONNX", precision, PRECISIONS)
    if precision == "int8" and dtype != "float32":
        raise ConfigError(f"precision 'int8' is for float32 models, and this one is {dtype}: call .float()")
    integers = integer_maps(net.operations) if precision == "int8" else set()
    g = Graph(dtype)
    writer = OneStep(net, g, integers) if form == "step" else AllSteps(net, g, integers, clip=form == "clip")
    writer.write()
    file = _file(net, g, writer.rests, form=form, precision=precision)
    check_operators((node.op_type for node in file.graph.node), operators)
    with atomic_write(Path(path)) as part:
        part.write_bytes(file.SerializeToString())


def _file(net: Outgoing, g: Graph, rests: dict[str, float], **facts: Any) -> Any:
    """Make a checked model of ONNX, whose metadata say ``facts`` too."""
    if g.bytes() > LARGEST:
        raise ConfigError(f"an ONNX file holds 2 GB, and this network has {g.bytes() / 2**30:.1f}")
    helper = g.onnx.helper
    graph = helper.make_graph(g.nodes, "isospike", g.inputs, g.outputs, list(g.constants.values()))
    opset = helper.make_opsetid("", OPSET)
    file = helper.make_model(graph, opset_imports=[opset], ir_version=IR, producer_name="isospike")
    inputs = None if net.model.inputs is None else net.model.inputs.as_dict()
    facts |= {"T": net.model.T, "rests": rests, "inputs": inputs}
    helper.set_model_props(file, {"isospike": json.dumps(facts)})
    try:
        g.onnx.checker.check_model(file, full_check=True)
    except (g.onnx.checker.ValidationError, g.onnx.shape_inference.InferenceError) as error:
        raise RunFailed(f"the ONNX file fails the check of onnx, so nothing is written: {error}") from error
    return file
