"""A residual unit as a picture: its words as boxes, the skip above them, and what flows on the lines.

The picture brings its own ground, so that it is legible whatever the page behind it, and follows the reader's dark
mode. Every class is below ``isospike-unit``: a page may hold several pictures and styles of its own.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from isospike.drawing.signals import Signals
from isospike.drawing.xml import element, text
from isospike.residual import Topology

BOX_WIDTH, BOX_HEIGHT, PITCH = 68, 38, 90
ENTRANCE, EXIT, MARGIN = 96, 96, 20
FORK, BEHIND = 32, 15  # from the fork to the box after it: before the first box, and between two
JOIN_RADIUS, JOIN_ROOM = 21, 58
HEADING, ROWS, READS = 34, 108, 52  # heights: a panel's heading, from the skip to the branch, what is read below
LINE = 14

# Blue, orange, green and grey of Okabe and Ito, which stay apart for every kind of colour vision; words say it again.
STYLE = """
.isospike-unit { font: 14px system-ui, sans-serif; }
.isospike-unit text { fill: #1b1b1b; text-anchor: middle; }
.isospike-unit .heading { text-anchor: start; font-weight: 600; }
.isospike-unit .note text { font-size: 12px; fill: #4a4a4a; }
.isospike-unit .ground { fill: #ffffff; }
.isospike-unit .line { stroke: #4a4a4a; stroke-width: 1.8; fill: none; }
.isospike-unit .head, .isospike-unit .fork { fill: #4a4a4a; }
.isospike-unit .box { stroke-width: 1.8; fill: #f1f1f1; stroke: #6b6b6b; }
.isospike-unit .conv .box { fill: #dcecf7; stroke: #0072b2; }
.isospike-unit .spike .box { fill: #fdeecb; stroke: #b87700; stroke-width: 3; }
.isospike-unit .pool .box { fill: #d6f1e8; stroke: #00805f; }
.isospike-unit .join circle { fill: #ffffff; stroke: #1b1b1b; stroke-width: 1.8; }
.isospike-unit .join text { font-weight: 600; }
@media (prefers-color-scheme: dark) {
.isospike-unit text { fill: #ececec; }
.isospike-unit .note text { fill: #bdbdbd; }
.isospike-unit .ground { fill: #16191d; }
.isospike-unit .line { stroke: #bdbdbd; }
.isospike-unit .head, .isospike-unit .fork { fill: #bdbdbd; }
.isospike-unit .box { fill: #2e3135; stroke: #a0a0a0; }
.isospike-unit .conv .box { fill: #10344c; stroke: #56b4e9; }
.isospike-unit .spike .box { fill: #4a3608; stroke: #e69f00; }
.isospike-unit .pool .box { fill: #0b3b2e; stroke: #3fc79d; }
.isospike-unit .join circle { fill: #16191d; stroke: #ececec; }
}
"""


def draw_unit(topology: Topology, convs: int = 2) -> str:
    """Draw a unit of this row as SVG: where the shape stays and where it changes; a row without a skip once.

    Args:
        topology: The row.
        convs: Convolutions in the branch: 2 in a basic unit, 3 in a bottleneck.
    """
    signals = Signals(topology, convs)
    panels = [_Panel(topology, convs, signals, projects) for projects in ((False, True) if topology.join else (False,))]
    height = sum(panel.height for panel in panels) + MARGIN
    width = max(panel.width for panel in panels)
    parts, top = [], 0
    for panel in panels:
        parts.append(panel.draw(top))
        top += panel.height
    return element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "isospike-unit",
            "role": "img",
            "width": width,
            "height": height,
            "viewBox": f"0 0 {width} {height}",
        },
        element("title", None, text(f"Residual unit of {topology.name}")),
        element("desc", None, text(_in_words(topology, convs, signals.carried))),
        element("style", None, text(STYLE)),
        element("rect", {"class": "ground", "width": width, "height": height, "rx": 6}),
        *parts,
    )


def _in_words(topology: Topology, convs: int, carried: str) -> str:
    """Describe the picture in words."""
    sentences = [f"The branch is {', '.join(topology.branch(convs))}."]
    if topology.join is None:
        sentences.append("There is no skip.")
    else:
        sentences.append(f"Where the shape stays, the skip is {topology.identity or 'the identity'}.")
        sentences.append(f"Where the shape changes, it is {', '.join(topology.project.split())}.")
        sentences.append(f"Branch and skip are joined by {topology.join.name}.")
        sentences.append(f"After the join stands {topology.after or 'nothing'}.")
    sentences.append(f"From unit to unit flow {carried}.")
    return " ".join(sentences)


class _Panel:
    """Draws one of the two cases of a unit.

    Args:
        topology: The row.
        convs: Convolutions in the branch.
        signals: What flows in its units.
        projects: Whether the skip is the projection.
    """

    def __init__(self, topology: Topology, convs: int, signals: Signals, projects: bool) -> None:
        self.topology, self.signals = topology, signals
        self.unit = signals.changing if projects else signals.staying
        self.branch = topology.branch(convs)
        self.skip = (topology.project if projects else topology.identity).split()
        self.projects = projects
        lead = self.branch.index("conv") if "shared" in self.skip else 0
        self.skip = [word for word in self.skip if word != "shared"]
        self.first = MARGIN + ENTRANCE + FORK  # left edge of the first box
        self.fork = self.first + lead * PITCH - (BEHIND if lead else FORK)
        self.end = self.first + len(self.branch) * PITCH - (PITCH - BOX_WIDTH)  # right edge of the last box
        self.join = self.end + JOIN_ROOM
        self.out = self.join + JOIN_RADIUS if topology.join else self.end
        self.exit = self.out + len(topology.after.split()) * PITCH
        self.width = self.exit + EXIT + MARGIN
        self.above = ROWS if topology.join else 0
        self.height = HEADING + BOX_HEIGHT + self.above + READS + LINE

    def draw(self, top: int) -> str:
        """Draw all of it, from ``top`` downwards."""
        skip_y = top + HEADING + LINE + BOX_HEIGHT // 2
        y = skip_y + self.above
        parts = [self._heading(top), *self._stream(y), self._branch(y)]
        if self.topology.join is not None:
            parts += [self._skip(skip_y, y), self._join(self.topology.join.linear, self.topology.join.name, y)]
        parts.append(self._after(y))
        case = "changes" if self.projects else "stays"
        return element("g", {"class": f"panel {case}"}, *parts)

    def _heading(self, top: int) -> str:
        words = "where the shape changes" if self.projects else "where the shape stays"
        if self.topology.join is None:
            words = "everywhere"
        return element("text", {"class": "heading", "x": MARGIN, "y": top + HEADING - 6}, text(words))

    def _stream(self, y: int) -> list[str]:
        """Draw the lines in and out, and what they carry."""
        carries = self.signals.carried.split()
        into = _arrow((MARGIN, y), (self.first, y))
        out = _arrow((self.exit, y), (self.width - MARGIN, y))
        lift = y - 10 - LINE * (len(carries) - 1)
        return [
            into,
            out,
            _note(carries, MARGIN + ENTRANCE // 2 - 4, lift, "entrance"),
            _note(carries, self.exit + (self.width - MARGIN - self.exit) // 2, lift, "exit"),
        ]

    def _branch(self, y: int) -> str:
        lefts = [self.first + index * PITCH for index in range(len(self.branch))]
        arrows = [_arrow((left + BOX_WIDTH, y), (right, y)) for left, right in pairwise(lefts)]
        if self.topology.join is not None:
            arrows.append(_arrow((self.end, y), (self.join - JOIN_RADIUS, y)))
        boxes = _boxes(self.branch, lefts, y, self.signals.read_in(self.unit.branch))
        return element("g", {"class": "branch"}, *arrows, *boxes)

    def _skip(self, skip_y: int, y: int) -> str:
        """Draw the skip from the fork up, along, and down into the join; its boxes are in the middle."""
        room = self.join - self.fork
        start = self.fork + (room - len(self.skip) * PITCH + PITCH - BOX_WIDTH) // 2
        lefts = [start + index * PITCH for index in range(len(self.skip))]
        corners = [(self.fork, y), (self.fork, skip_y)]
        lines = [_line([*corners, (self.join, skip_y)])] if not lefts else [_line(corners)]
        begins = [self.fork, *(left + BOX_WIDTH for left in lefts[:-1])]
        lines += [_arrow((begin, skip_y), (left, skip_y)) for begin, left in zip(begins, lefts, strict=False)]
        if lefts:
            lines.append(_line([(lefts[-1] + BOX_WIDTH, skip_y), (self.join, skip_y)]))
        lines.append(_arrow((self.join, skip_y), (self.join, y - JOIN_RADIUS)))
        dot = element("circle", {"class": "fork", "cx": self.fork, "cy": y, "r": 4})
        boxes = _boxes(self.skip, lefts, skip_y, self.signals.read_in(self.unit.skip))
        if not lefts:
            boxes = [_note(["unchanged"], self.fork + room // 2, skip_y - 8, "identity")]
        return element("g", {"class": "skip"}, *lines, dot, *boxes)

    def _join(self, linear: bool, name: str, y: int) -> str:
        sign = "+" if linear else name.upper()
        circle = element("circle", {"cx": self.join, "cy": y, "r": JOIN_RADIUS})
        size = 22 if linear else 12
        label = {"x": self.join, "y": y + size // 3, "style": f"font-size: {size}px"}
        return element("g", {"class": "join"}, circle, element("text", label, text(sign)))

    def _after(self, y: int) -> str:
        words = self.topology.after.split()
        lefts = [self.out + PITCH - BOX_WIDTH + index * PITCH for index in range(len(words))]
        arrows = [_arrow((left - PITCH + BOX_WIDTH, y), (left, y)) for left in lefts]
        return element("g", {"class": "after"}, *arrows, *_boxes(words, lefts, y))


Point = tuple[int, int]


def _boxes(words: Sequence[str], lefts: Sequence[int], y: int, signals: Iterable[str] = ()) -> list[str]:
    """Draw a box for each word, and below a convolution what it reads."""
    boxes, read = [], iter(signals)
    for word, left in zip(words, lefts, strict=True):
        middle = left + BOX_WIDTH // 2
        corner = BOX_HEIGHT // 2 if word == "spike" else 4
        box = {"class": "box", "x": left, "y": y - BOX_HEIGHT // 2, "width": BOX_WIDTH, "height": BOX_HEIGHT}
        parts = [
            element("rect", {**box, "rx": corner}),
            element("text", {"class": "label", "x": middle, "y": y + 5}, text(word)),
        ]
        if word == "conv":
            parts.append(_note(["reads", *next(read).split()], middle, y + BOX_HEIGHT // 2 + LINE + 2, "reads"))
        boxes.append(element("g", {"class": f"word {word}"}, *parts))
    return boxes


def _note(lines: Sequence[str], x: int, y: int, kind: str) -> str:
    """Draw small words one below the other, the first at ``y``."""
    rows = [element("text", {"x": x, "y": y + index * LINE}, text(line)) for index, line in enumerate(lines)]
    return element("g", {"class": f"note {kind}"}, *rows)


def _line(points: Sequence[Point]) -> str:
    return element("polyline", {"class": "line", "points": " ".join(f"{x},{y}" for x, y in points)})


def _arrow(begin: Point, end: Point) -> str:
    """Draw a line with its head at ``end``, to the right or downwards."""
    (x, y), across = end, begin[1] == end[1]
    wings = ((x - 8, y - 4), (x - 8, y + 4)) if across else ((x - 4, y - 8), (x + 4, y - 8))
    head = " ".join(f"{a},{b}" for a, b in (end, *wings))
    stop = (x - 4, y) if across else (x, y - 4)
    return element("g", {"class": "arrow"}, _line([begin, stop]), element("polygon", {"class": "head", "points": head}))
