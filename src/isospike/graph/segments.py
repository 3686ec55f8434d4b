"""Where activation checkpointing may cut a program that does not say so itself."""

from itertools import pairwise

from isospike.graph.program import Between, Conv, Program, uses, writes


def natural_segments(program: Program) -> tuple[range, ...]:
    """Find operations in a row with a convolution among them, between places that one map alone crosses.

    These are the units of a residual network, and the layers of a plain one with what stands behind each.
    """
    segments: list[range] = []
    for start, stop in pairwise(_borders(program)):
        part = program.operations[start:stop]
        if any(isinstance(op, Conv) for op in part):
            segments.append(range(start, stop))
        elif segments and segments[-1].stop == start and all(isinstance(op, Between) for op in part):
            segments[-1] = range(segments[-1].start, stop)
    return tuple(segments)


def _borders(program: Program) -> list[int]:
    """Find the positions before which a single map is alive."""
    left, alive, borders = uses(program.operations, program.results), {program.input}, [0]
    for position, op in enumerate(program.operations, start=1):
        left.subtract(op.reads())
        alive = {value for value in (*alive, *writes(op)) if left[value]}
        if len(alive) == 1:
            borders.append(position)
    return borders
