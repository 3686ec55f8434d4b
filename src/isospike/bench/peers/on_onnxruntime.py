"""Networks that isospike has exported, in ONNX Runtime: all time steps at once, or one after the other."""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from serve import Job, Task, Tensors, dtype_of, serve

Run = Callable[[list[str], dict[str, Any]], list[Any]]


class Static:
    """All time steps of images that stand still."""

    def __init__(self, run: Run, x: Any) -> None:
        self.session, self.x = run, x

    def run(self) -> Any:
        """Return the logits."""
        return self.session(["logits"], {"x": self.x})[0]

    def outputs(self) -> Tensors:
        """Return the same."""
        return {"logits": torch.from_numpy(self.run())}


class Stepped:
    """One time step after the other, from rest; what a step puts out of potentials, the next one takes in.

    Args:
        run: Of the file.
        x: Images ``[B, C, H, W]``.
        T: Steps.
        rest: Potentials before the first step.
    """

    def __init__(self, run: Run, x: Any, T: int, rest: dict[str, Any]) -> None:
        self.session, self.x, self.T, self.rest = run, x, T, rest
        self.wanted = ["logits", *(f"{name}.next" for name in rest)]

    def run(self) -> Any:
        """Return the mean of the logits of all steps."""
        total, state = 0, self.rest
        for _ in range(self.T):
            logits, *after = self.session(self.wanted, {"x": self.x, **state})
            total, state = total + logits, dict(zip(state, after, strict=True))
        return total / self.T

    def outputs(self) -> Tensors:
        """Return the same."""
        return {"logits": torch.from_numpy(self.run())}


def opened(path: str, double: bool) -> Run:
    """Open a file; in float64 with the reference of ONNX, as ONNX Runtime convolves in float32 alone."""
    if double:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(path).run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run


def at_rest(path: str, batch: int, dtype: Any) -> dict[str, Any]:
    """Make the potentials before the first step, as the metadata of a file say."""
    import onnx

    model = onnx.load(path)
    rests = json.loads({entry.key: entry.value for entry in model.metadata_props}["isospike"])["rests"]
    found = {}
    for given in model.graph.input[1:]:  # the first is x
        shape = [batch if size.dim_param else size.dim_value for size in given.type.tensor_type.shape.dim]
        found[given.name] = np.full(shape, rests.get(given.name, 0), np.int64 if given.name == "step" else dtype)
    return found


def build(job: Job, tensors: Tensors) -> Task:
    """Make the task of one file."""
    form, precision = job["setting"]["form"], job["setting"]["precision"]
    double = job["precision"] == "float64"
    path = job["files"][f"{form} {'float64' if double else precision}"]
    x = tensors["x"].to(dtype_of(job)).numpy()
    run = opened(path, double)
    return Static(run, x) if form == "static" else Stepped(run, x, job["T"], at_rest(path, len(x), x.dtype))


if __name__ == "__main__":
    from importlib.metadata import version

    serve(build, {name: version(name) for name in ("onnx", "onnxruntime")})
