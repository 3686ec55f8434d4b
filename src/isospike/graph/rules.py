"""The rules that shorten a program: fewer operations that do the same.

A rule takes the operations and the values that are read after them. ``rewrite`` applies several in their order.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from isospike.graph.program import Between, Call, Complement, Conv, Operation, Value, uses, writes

Rule = Callable[[Sequence[Operation], Collection[Value]], list[Operation]]


def rewrite(operations: Sequence[Operation], results: Collection[Value], rules: Sequence[Rule]) -> Sequence[Operation]:
    """Apply rules to operations, one after the other.

    Args:
        operations: Part of a program, or all of it.
        results: The values that are read after them.
        rules: ``TRAINING`` or ``INFERENCE``.
    """
    for rule in rules:
        operations = rule(operations, results)
    return operations


def find_affines(program: Sequence[Operation], results: Collection[Value]) -> list[Operation]:
    """Write a convolution that gives every channel a factor and a bias of its own as the affine that it is."""
    return [
        Between(op.x, op.out, x_affine=op.layer)
        if isinstance(op, Conv) and op.affine is None and op.onto is None and _is_by_channel(op)
        else op
        for op in program
    ]


def _is_by_channel(conv: Conv) -> bool:
    """Return whether every output is a multiple of the one pixel of its own channel, and a bias."""
    layer = conv.layer
    geometry = layer.kernel_size, layer.stride, layer.padding
    channels = layer.in_channels, layer.out_channels
    return geometry == ((1, 1), (1, 1), (0, 0)) and channels == (layer.groups, layer.groups) and conv.module is layer


def fold_into_convolutions(program: Sequence[Operation], results: Collection[Value]) -> list[Operation]:
    """Make an affine that alone reads a convolution part of it."""
    count, convs = uses(program, results), {op.out: op for op in program if isinstance(op, Conv)}
    folded: dict[Conv, Conv] = {}
    gone = set()
    for op in program:
        if isinstance(op, Between) and op.is_affine and op.x in convs and count[op.x] == 1 and not op.knows_steps:
            folded[convs[op.x]] = replace(convs[op.x], affine=op.x_affine, out=op.out)
            gone.add(op)
    return [folded.get(op, op) if isinstance(op, Conv) else op for op in program if op not in gone]


def absorb_affines(program: Sequence[Operation], results: Collection[Value]) -> list[Operation]:
    """Make an affine part of the one sum, neuron or join that reads it; ``1 - s`` before a product is IAND."""
    count = uses(program, results)
    affines = {op.out: op for op in program if isinstance(op, Between) and op.is_affine and count[op.out] == 1}
    gone: set[Operation] = set()
    done: list[Operation] = []
    for op in program:
        if isinstance(op, Between) and op.x in affines and op.x_affine is None:
            source = affines[op.x]
            if op.join == "and" and op.neuron is None:
                if isinstance(source.x_affine, Complement):
                    op, gone = replace(op, x=source.x, join="iand"), gone | {source}
            else:
                op, gone = replace(op, x=source.x, x_affine=source.x_affine), gone | {source}
        if isinstance(op, Between) and op.y in affines and op.y_affine is None and op.y != op.x:
            source = affines[op.y]
            op, gone = replace(op, y=source.x, y_affine=source.x_affine), gone | {source}
        done.append(op)
    return [op for op in done if op not in gone]


def fuse_sums(program: Sequence[Operation], results: Collection[Value]) -> list[Operation]:
    """Make a sum in the pass of the first neurons (or norm) that read it, and keep it if others read it too."""
    count = uses(program, results)
    readers: dict[Value, Between] = {}
    for op in program:
        if isinstance(op, Between) and op.y is None and op.z is None and (op.neuron or op.is_affine):
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


def fuse_joins(program: Sequence[Operation], results: Collection[Value]) -> list[Operation]:
    """Make a join in the pass of the neurons that alone feed it, where nothing in between needs that pass."""
    count = uses(program, results)
    done: list[Operation] = []
    for op in program:
        done.append(op)
        if not isinstance(op, Between) or op.neuron or op.affine or op.x_affine or op.y_affine:
            continue
        other, join = (op.y, "add") if op.is_sum else (op.z, op.join)
        if other is None or other == op.x:
            continue
        pairs = [(op.x, other)] + ([(other, op.x)] if join in ("add", "and") else [])
        for position in reversed(range(len(done) - 1)):
            source = done[position]
            if not isinstance(source, Between) or not source.neuron or source.join or count[source.out] != 1:
                continue
            rest = next((z for x, z in pairs if x == source.out), None)
            if rest is not None:
                between = [value for later in done[position + 1 : -1] for value in later.reads()]
                if not any(value in between for value in writes(source)):
                    done[-1] = replace(source, z=rest, join=join, out=op.out)
                    del done[position]
                break
    return done


def accumulate(
    program: Sequence[Operation], results: Collection[Value], time: Collection[Value], can: Callable[[Conv], bool]
) -> list[Operation]:
    """Let a convolution that a sum alone reads make the sum, in the memory of the other term.

    That term must be one that differs from step to step, as the convolution's output does, and is read for the last
    time. ``can`` says which convolutions add to what is there.
    """
    last = {value: op for op in program for value in op.reads()}
    count = uses(program, results)
    convs = {op.out: op for op in program if isinstance(op, Conv) and count[op.out] == 1 and can(op)}
    own = {value for op in program if not isinstance(op, Call) for value in writes(op) if value in time}
    moved: dict[Operation, list[Operation]] = {}
    for op in program:
        if not isinstance(op, Between) or op.y is None or op.x_affine or op.y_affine:
            continue
        for x, y in ((op.x, op.y), (op.y, op.x)):
            conv = convs.get(x)
            if conv is not None and x in time and y in own and last[y] is op and y not in (*results, op.z):
                total = op.total or op.x
                onto = replace(conv, out=total, onto=y)
                moved[op], moved[conv] = [onto, replace(op, x=total, y=None, total=None)], []
                break
    return [after for op in program for after in moved.get(op, [op])]


TRAINING: tuple[Rule, ...] = (absorb_affines, fuse_joins, fuse_sums)
INFERENCE: tuple[Rule, ...] = (find_affines, fold_into_convolutions, *TRAINING)
