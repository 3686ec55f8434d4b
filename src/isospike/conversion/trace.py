"""An ANN as a graph of calls, traced by ``torch.fx`` with an example: every shape is known on the way."""

import operator
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

TORCH, HERE = str(Path(torch.__file__).parent), str(Path(__file__).parent)
CALL, GETATTR = nn.Module.__call__, nn.Module.__getattr__  # which torch.fx replaces while it traces


def trace(module: nn.Module, example: Tensor, norms: Collection[nn.Module]) -> fx.Graph:
    """Return the calls that ``module`` makes on ``example``, each node with ``shape`` and ``source`` in its ``meta``.

    What it does that depends on the shape of a map is done for the shape of the example.

    Args:
        module: In eval mode; tensors that its forward makes become attributes of it.
        example: Images ``[B, C, H, W]``, which stay as they are.
        norms: Modules in it that are called as a whole because they do what a batch norm does.

    Raises:
        Exception: whatever its forward raises when its maps are no tensors, as where a number in one decides.
    """
    with torch.no_grad():
        return Tracer(example.clone(), norms).trace(module)


class Tracer(fx.Tracer):
    """Leaves are the layers of PyTorch, and classes that do what a batch norm does."""

    def __init__(self, example: Tensor, norms: Collection[nn.Module]) -> None:
        super().__init__()
        self.example, self.norms = example, norms

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Return the images alone: all other arguments are what they are by default."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether ``m`` is called as a whole."""
        return m in self.norms or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a map that knows its shape."""
        return ShapedProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **others: Any) -> fx.Proxy:
        """Create a proxy as ``fx.Tracer`` does, and run the call on the example too."""
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **others)
        if isinstance(proxy, ShapedProxy):
            with untraced():
                proxy.value = self._run(kind, target, _values(args), _values(kwargs))
            shape = getattr(proxy.value, "shape", None)
            proxy.node.meta.update(shape=None if shape is None else tuple(shape), source=_source())
        return proxy

    def _run(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self.example
        if kind == "get_attr":
            return operator.attrgetter(target)(self.root)
        if kind == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs) if kind == "call_function" else None


class ShapedProxy(fx.Proxy):
    """Stands for a tensor whose shape, dtype and device are those that the example gives it."""

    value: Any

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions of the tensor."""
        return self.value.ndim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor."""
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        """The device of the tensor."""
        return self.value.device

    def size(self, dim: int | None = None) -> Any:
        """Return the size of the tensor."""
        return self.value.size() if dim is None else self.value.size(dim)

    def dim(self) -> int:
        """Return the number of dimensions of the tensor."""
        return self.value.dim()

    def numel(self) -> int:
        """Return the number of elements of the tensor."""
        return self.value.numel()

    def __len__(self) -> int:
        return len(self.value)

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})


@contextmanager
def untraced() -> Iterator[None]:
    """Let modules run as they are inside the block, though they are being traced."""
    traced = nn.Module.__call__, nn.Module.__getattr__
    nn.Module.__call__, nn.Module.__getattr__ = CALL, GETATTR  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = traced  # type: ignore[method-assign]


def _values(args: Any) -> Any:
    """Return the same with the tensors that proxies stand for."""
    return map_aggregate(args, lambda a: a.value if isinstance(a, ShapedProxy) else a)


def _source() -> tuple[str, int] | None:
    """Return the file and the line of the call, in the code of whoever wrote the ANN."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith((TORCH, HERE, "<")):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None
