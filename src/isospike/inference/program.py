"""A network as a list of operations on numbered maps: convolutions, what stands between them, and what has no name."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from isospike.ops.pointwise import Activation, Affine, JoinName
from isospike.residual import Domain


@dataclass(frozen=True)
class Value:
    """A map: its number, its channels, and what its elements may be."""

    number: int
    channels: int
    domain: Domain


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution, its output through an affine that is yet to be folded into its weights, added ``onto`` a map."""

    x: Value
    out: Value
    layer: nn.Conv2d
    bias: Tensor | None
    affine: Affine | None = None
    onto: Value | None = None

    def reads(self) -> tuple[Value, ...]:
        """Its inputs."""
        return (self.x,) if self.onto is None else (self.x, self.onto)


@dataclass(frozen=True, eq=False)
class Between:
    """``ops.pointwise`` on maps: ``total = x + y; s = fire(total); out = join(s, z)``, with affines of x, y, total."""

    x: Value
    out: Value
    y: Value | None = None
    z: Value | None = None
    x_affine: Affine | None = None
    y_affine: Affine | None = None
    affine: Affine | None = None
    firing: Activation | None = None
    join: JoinName | None = None
    total: Value | None = None

    def reads(self) -> tuple[Value, ...]:
        """Its inputs."""
        return tuple(value for value in (self.x, self.y, self.z) if value is not None)

    @property
    def is_affine(self) -> bool:
        """Whether it is nothing but an affine of one map."""
        return self.x_affine is not None and self.y is None and self.z is None and self.firing is None

    @property
    def is_sum(self) -> bool:
        """Whether it is nothing but a sum of two maps, each through its affine or none."""
        return self.y is not None and self.z is None and self.firing is None and self.affine is None


@dataclass(frozen=True, eq=False)
class Call:
    """A layer of the model as it is, on maps ``[T*B, ...]``; neurons see time."""

    x: Value
    out: Value
    layer: nn.Module

    def reads(self) -> tuple[Value, ...]:
        """Its inputs."""
        return (self.x,)


COMPLEMENT = Affine(torch.tensor([[-1.0]]), torch.tensor([[1.0]]))  # 1 - x, known by identity

Operation = Conv | Between | Call


def writes(operation: Operation) -> tuple[Value, ...]:
    """Its outputs."""
    if isinstance(operation, Between) and operation.total is not None:
        return operation.out, operation.total
    return (operation.out,)


def uses(program: Iterable[Operation], result: Value) -> Counter[Value]:
    """How often each map is read; the result once more."""
    return Counter([value for operation in program for value in operation.reads()] + [result])


def fuse(program: list[Operation], result: Value) -> list[Operation]:
    """Fewer operations that do the same: norms in weights or beside neurons, sums and joins in the neurons' pass."""
    for rewrite in (_fold_into_convolutions, _absorb_affines, _fuse_joins, _fuse_sums):
        program = rewrite(program, result)
    return program


def _fold_into_convolutions(program: list[Operation], result: Value) -> list[Operation]:
    """An affine that alone reads a convolution becomes part of it."""
    count, convs = uses(program, result), {op.out: op for op in program if isinstance(op, Conv)}
    folded: dict[Conv, Conv] = {}
    gone = set()
    for op in program:
        if not (isinstance(op, Between) and op.is_affine and op.x in convs and count[op.x] == 1):
            continue
        if op.x_affine is not None and not op.x_affine.knows_steps:
            folded[convs[op.x]] = replace(convs[op.x], affine=op.x_affine, out=op.out)
            gone.add(op)
    return [folded.get(op, op) if isinstance(op, Conv) else op for op in program if op not in gone]


def _absorb_affines(program: list[Operation], result: Value) -> list[Operation]:
    """An affine that one sum, neuron or join alone reads becomes part of it; ``1 - s`` before a product is IAND."""
    count = uses(program, result)
    affines = {op.out: op for op in program if isinstance(op, Between) and op.is_affine and count[op.out] == 1}
    gone: set[Operation] = set()
    done: list[Operation] = []
    for op in program:
        if isinstance(op, Between) and op.x in affines and op.x_affine is None:
            source = affines[op.x]
            if op.join == "and" and op.firing is None:
                if source.x_affine is COMPLEMENT:
                    op, gone = replace(op, x=source.x, join="iand"), gone | {source}
            else:
                op, gone = replace(op, x=source.x, x_affine=source.x_affine), gone | {source}
        if isinstance(op, Between) and op.y in affines and op.y_affine is None and op.y != op.x:
            source = affines[op.y]
            op, gone = replace(op, y=source.x, y_affine=source.x_affine), gone | {source}
        done.append(op)
    return [op for op in done if op not in gone]


def _fuse_sums(program: list[Operation], result: Value) -> list[Operation]:
    """A sum is made in the pass of the first neurons (or norm) that read it, and kept if others read it too."""
    count = uses(program, result)
    readers: dict[Value, Between] = {}
    for op in program:
        if isinstance(op, Between) and op.y is None and op.z is None and (op.firing or op.is_affine):
            readers.setdefault(op.x, op)
    gone: set[Operation] = set()
    done: list[Operation] = []
    for op in program:
        reader = readers.get(op.out)
        if isinstance(op, Between) and op.is_sum and reader is not None:
            total = op.out if count[op.out] > 1 else None
            op = replace(reader, x=op.x, x_affine=op.x_affine, y=op.y, y_affine=op.y_affine, total=total)
            op = replace(op, affine=reader.x_affine)
            gone.add(reader)
        done.append(op)
    return [op for op in done if op not in gone]


def _fuse_joins(program: list[Operation], result: Value) -> list[Operation]:
    """A join is made in the pass of the neurons that alone feed it, where nothing in between needs that pass."""
    count = uses(program, result)
    done: list[Operation] = []
    for op in program:
        done.append(op)
        if not isinstance(op, Between) or op.firing or op.affine or op.x_affine or op.y_affine:
            continue
        other, join = (op.y, "add") if op.is_sum else (op.z, op.join)
        if other is None or other == op.x:
            continue
        pairs = [(op.x, other)] + ([(other, op.x)] if join != "iand" else [])
        for position in reversed(range(len(done) - 1)):
            source = done[position]
            if not isinstance(source, Between) or not source.firing or source.join or count[source.out] != 1:
                continue
            rest = next((z for x, z in pairs if x == source.out), None)
            if rest is not None:
                between = [value for later in done[position + 1 : -1] for value in later.reads()]
                if not any(value in between for value in writes(source)):
                    done[-1] = replace(source, z=rest, join=join, out=op.out)
                    del done[position]
                break
    return done


def accumulate(program: list[Operation], result: Value, time: set[Value]) -> list[Operation]:
    """A sum with a convolution that it alone reads is made by the convolution, in the memory of the other term.

    That term must be one that differs from step to step, as the convolution's output does, and is read for the last
    time.
    """
    last = {value: op for op in program for value in op.reads()}
    count = uses(program, result)
    convs = {op.out: op for op in program if isinstance(op, Conv) and count[op.out] == 1}
    own = {value for op in program if not isinstance(op, Call) for value in writes(op)} & time
    moved: dict[Operation, list[Operation]] = {}
    for op in program:
        if not isinstance(op, Between) or op.y is None or op.x_affine or op.y_affine:
            continue
        for x, y in ((op.x, op.y), (op.y, op.x)):
            conv = convs.get(x)
            if conv is not None and x in time and y in own and last[y] is op and y not in (result, op.z):
                total = op.total or op.x
                onto = replace(conv, out=total, onto=y)
                moved[op], moved[conv] = [onto, replace(op, x=total, y=None, total=None)], []
                break
    return [after for op in program for after in moved.get(op, [op])]
