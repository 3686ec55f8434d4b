"""An ONNX graph that grows node by node; what is computed twice is one node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from isospike.optional import import_optional

Array = npt.NDArray[Any]


class Graph:
    """Nodes, constants, inputs and outputs; a tensor is the name of it.

    Args:
        dtype: Of all real numbers, float32 or float64.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.onnx = import_optional("onnx", extra="onnx", purpose="a network as an ONNX file")
        self.dtype = np.dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._made: dict[Any, str] = {}
        self._parts: dict[tuple[str, int], list[str]] = {}
        self._scope = ""

    def within(self, scope: str) -> None:
        """Name the nodes that follow after a layer."""
        self._scope = scope

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Return the output of a node; of one that is there already, if it is the same."""
        key = (operator, inputs, repr(sorted(attributes.items())))
        if key not in self._made:
            self._made[key] = self._node(operator, inputs, 1, attributes)[0]
        return self._made[key]

    def split(self, x: str, parts: int) -> list[str]:
        """``x`` in equal parts along its first dimension."""
        if parts == 1:
            return [x]
        if (x, parts) not in self._parts:
            self._parts[x, parts] = self._node("Split", (x,), parts, {"axis": 0, "num_outputs": parts})
        return self._parts[x, parts]

    def number(self, value: float, like: Sequence[int] = ()) -> str:
        """Add a real number, or an array of it."""
        return self.constant(np.full(like, value))

    def constant(self, array: Array) -> str:
        """Real numbers."""
        return self._constant(np.asarray(array, self.dtype))

    def real(self, x: str) -> str:
        """``x`` as real numbers."""
        return self._cast(x, self.dtype)

    def byte(self, x: str) -> str:
        """``x`` as whole numbers from 0 to 255."""
        return self._cast(x, np.dtype(np.uint8))

    def _cast(self, x: str, dtype: np.dtype[Any]) -> str:
        return self.add("Cast", x, to=int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype)))

    def integers(self, values: Sequence[int]) -> str:
        """Whole numbers, as shapes and axes are."""
        return self._constant(np.asarray(values, np.int64))

    def weight(self, name: str, array: Array) -> str:
        """Real numbers under their name, or another where others have it, as of a layer that is used twice.

        Integers of 8 bits stay as they are.
        """
        array = np.asarray(array, np.int8 if array.dtype == np.int8 else self.dtype)
        while name in self.constants and self.constants[name].raw_data != array.tobytes():
            name += "_again"
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def input(self, name: str, shape: Sequence[int | str], *, integer: bool = False) -> str:
        """Add a tensor that comes from outside; a word in its shape is a dimension that is open."""
        self.inputs.append(self._info(name, shape, integer))
        return name

    def output(self, name: str, x: str, shape: Sequence[int | str], *, integer: bool = False) -> None:
        """``x`` goes outside under ``name``."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [x], [name], name=name))
        self.outputs.append(self._info(name, shape, integer))

    def bytes(self) -> int:
        """Return what the constants take in a file."""
        return sum(len(tensor.raw_data) for tensor in self.constants.values())

    def _node(self, operator: str, inputs: Sequence[str], outputs: int, attributes: dict[str, Any]) -> list[str]:
        name = f"{self._scope}/{operator}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}.{part}" for part in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, name=name, **attributes))
        return names

    def _constant(self, array: Array) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            self._made[key] = name = f"constant_{len(self.constants)}"
            self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return self._made[key]

    def _info(self, name: str, shape: Sequence[int | str], integer: bool) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.int64) if integer else self.dtype)
        return self.onnx.helper.make_tensor_value_info(name, kind, list(shape))
