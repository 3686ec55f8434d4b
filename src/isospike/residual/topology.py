"""The row that says what a residual network is: words for its unit, and the presets of its source.

Words: ``conv`` a convolution, ``norm`` a batch norm, ``spike`` a neuron; in a projection also ``pool``, an average
pool that takes over the stride of the convolution after it, and ``shared``, what the branch has before its first
convolution, computed once for both. What follows from the words is derived, never typed: what the stream
between units carries, what the stem ends with, what closes the network, whether a unit can be the identity.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from isospike.errors import ConfigError
from isospike.layers import WEIGHT_INITS, check_eps
from isospike.neurons import NeuronSpec, build_neuron
from isospike.registry import Registry
from isospike.residual.join import Join
from isospike.residual.reach import COMBINES, REACHES

WORDS = ("conv", "norm", "spike", "pool", "shared")


@dataclass(frozen=True)
class NormInit:
    """How a batch norm starts.

    Args:
        weight: Initial value of the learnable weight.
        alpha: tdBN's alpha: the norm also has the constant factor ``alpha * v_threshold``. None: no factor.
    """

    weight: float = 1.0
    alpha: float | None = None

    def scale(self, v_threshold: float) -> float:
        """Return the constant factor for neurons with this threshold."""
        return 1.0 if self.alpha is None else self.alpha * v_threshold


@dataclass(frozen=True)
class Topology:
    """One residual topology. A row that makes no sense cannot be built.

    Args:
        name: First part of the model names: ``{name}_resnet{depth}``.
        source: The paper, with its identifier.
        cell: Words of every convolution of the branch but the last.
        last: Words of the last convolution of the branch.
        after: Words after the join: a neuron or nothing.
        project: Words of the skip where the shape changes; "" where there is no skip.
        identity: Words of the skip where the shape stays: nothing, or a norm, which starts like a projection's.
        join: How branch and skip become one; None: no skip, the unit is its branch.
        neuron: What ``build_neuron`` takes.
        norm: Batch norms in the stem, inside the branch and before the head.
        norm_last: The norm that ends the branch.
        conv_last: Where a convolution ends the branch: factor on its initial weights.
        norm_project: Norms of the projection.
        norm_eps: What norms add to the variance.
        norm_root_eps: What they add to its root.
        per_step_norm: Whether the norms behind the first neuron have weights and statistics for every time step.
        weight_init: Name in ``WEIGHT_INITS``.
        reach: Which earlier stages feed a stage besides the one before it; name in ``REACHES``.
        combine: How the outputs that reach a place become one there; name in ``COMBINES``.
        T: Time steps of the source for static images; the only ones that norms per step know.
        bodies: Bodies that the source (or its comparison) uses, preferred first; names in ``BODIES``.
        nets: Single networks that the source (or its comparison) uses; names in ``NETS``.

    Raises:
        ConfigError: the row contradicts itself; the text says how.
    """

    name: str
    source: str
    cell: str
    last: str
    neuron: NeuronSpec
    after: str = ""
    project: str = ""
    identity: str = ""
    join: Join | None = None
    norm: NormInit = NormInit()
    norm_last: NormInit = NormInit()
    norm_project: NormInit = NormInit()
    conv_last: float = 1.0
    norm_eps: float = 1e-5
    norm_root_eps: float = 0.0
    per_step_norm: bool = False
    weight_init: str = "pytorch"
    reach: str = "stage"
    combine: str = "sum"
    T: int = 4
    bodies: tuple[str, ...] = ("imagenet", "resnet19", "cifar", "cifar_projected")
    nets: tuple[str, ...] = ()
    v_threshold: float = field(init=False)
    levels: int | None = field(init=False)

    def __post_init__(self) -> None:
        neuron = build_neuron(self.neuron)
        object.__setattr__(self, "v_threshold", neuron.v_threshold)
        object.__setattr__(self, "levels", neuron.levels)
        WEIGHT_INITS[self.weight_init]
        check_eps(self.norm_eps, self.norm_root_eps)
        for part, convs in (
            ("cell", 1),
            ("last", 1),
            ("after", 0),
            ("project", 1 if self.join else 0),
            ("identity", 0),
        ):
            self._check_words(part, convs)
        self._check_nonlinearity()
        self._check_skip()
        self._check_reach()

    def branch(self, num_convs: int) -> list[str]:
        """Return the words of a branch with ``num_convs`` convolutions."""
        return self.cell.split() * (num_convs - 1) + self.last.split()

    def branch_norms(self, num_convs: int) -> list[NormInit]:
        """Return how each norm of such a branch starts."""
        norms = [self.norm] * self.branch(num_convs).count("norm")
        return [*norms[:-1], self.norm_last] if self.tail_is_norm else norms

    @property
    def stream(self) -> Literal["spike", "membrane"]:
        """The stream from unit to unit: "spike" (or counts of them), or "membrane" (currents)."""
        return "spike" if (self.last + " " + self.after).split()[-1] == "spike" else "membrane"

    @property
    def opening(self) -> str:
        """Words between the stem's norm and the first unit: a stream of spikes starts with a neuron."""
        return "spike" if self.stream == "spike" else ""

    @property
    def closing(self) -> str:
        """Words between the last unit and the head: those that the next unit would start with."""
        words = self.cell.split()
        return " ".join(words[: words.index("conv")])

    @property
    def can_be_identity(self) -> bool:
        """Whether a unit passes its input on unchanged where its branch is neutral."""
        return self.join is not None and not self.after and not self.identity

    @property
    def tail_is_norm(self) -> bool:
        """Whether the last layer with weights in the branch is a norm (else it is a convolution)."""
        words = self.last.split()
        return "norm" in words[words.index("conv") :]

    @property
    def tail_init(self) -> float:
        """The start of that layer: the weight of the norm, or the factor on the convolution's own start."""
        return self.norm_last.weight if self.tail_is_norm else self.conv_last

    @property
    def starts_neutral(self) -> bool:
        """Whether every branch starts at the value that leaves the skip as it is."""
        return self.tail_init == 0

    @property
    def norm_meets_stream(self) -> bool:
        """Whether a norm stands between the stream and the first neuron after it, whatever the stream's size."""
        words = self.cell.split()
        return "norm" in words[: words.index("spike")]

    @property
    def identity_at_init(self) -> bool:
        """Whether a unit of unchanged shape is the identity before training."""
        return self.can_be_identity and self.starts_neutral

    def with_tail_init(self, tail: float) -> "Topology":
        """Return the same row with this ``tail_init``; with 0 every branch starts neutral.

        Raises:
            ConfigError: it is below 0.
        """
        if not tail >= 0:
            raise self._refuse(f"tail_init must be at least 0, got {tail:g}")
        if self.tail_is_norm:
            return replace(self, norm_last=replace(self.norm_last, weight=tail))
        return replace(self, conv_last=tail)

    def with_alpha(self, alpha: float) -> "Topology":
        """Return the same row with this alpha in every norm of tdBN.

        Raises:
            ConfigError: its norms have no such factor, or it is not greater than 0.
        """
        if self.norm.alpha is None:
            raise self._refuse(f"its norms have no factor alpha * v_threshold, so alpha={alpha:g} has no meaning there")
        if not alpha > 0:
            raise self._refuse(f"alpha must be greater than 0, got {alpha:g}")
        norms = {part: replace(getattr(self, part), alpha=alpha) for part in ("norm", "norm_last", "norm_project")}
        return replace(self, **norms)

    def _refuse(self, why: str) -> ConfigError:
        return ConfigError(f"topology '{self.name}': {why}")

    def _check_words(self, part: str, convs: int) -> None:
        words = getattr(self, part).split()
        for word in words:
            if word not in WORDS:
                raise self._refuse(f"'{word}' in {part} is not a word; words are {', '.join(WORDS)}")
        if words.count("conv") != convs:
            raise self._refuse(f"{part} must hold {convs} conv, '{getattr(self, part)}' holds {words.count('conv')}")
        for word, follower in pairwise([*words, ""]):
            if word == "pool" and (part != "project" or "conv" not in words[words.index(word) :]):
                raise self._refuse("pool stands only in the projection, before its conv")
            if word == "shared" and (part != "project" or words[0] != word or words.count(word) > 1):
                raise self._refuse("shared stands only at the start of the projection")
            if word == follower:
                raise self._refuse(f"{part} says {word} twice in a row")
        if part == "after" and words not in ([], ["spike"]):
            raise self._refuse(f"after the join stands a spike or nothing, not '{self.after}': no weights belong there")

    def _check_nonlinearity(self) -> None:
        """Check that one neuron stands between any two convolutions, within a unit or across units."""
        unit = [*self.branch(2), *self.after.split()]
        turns = "".join("c" if word == "conv" else "s" for word in unit * 2 if word in ("conv", "spike"))
        if "cc" in turns:
            raise self._refuse("two convolutions follow each other without a neuron between: together they are one")
        if "ss" in turns:
            raise self._refuse("two neurons follow each other without a convolution between")

    def _check_skip(self) -> None:
        if self.identity not in ("", "norm") or (self.identity and self.join is None):
            raise self._refuse(
                f"identity, the skip where the shape stays, holds a norm or nothing, not '{self.identity}'"
            )
        if self.join is None:
            return
        if self.identity and self.stream == "spike" and not self.after:
            raise self._refuse("the stream carries spikes, and a norm on its skip would make real numbers of them")
        if "shared" in self.project.split() and self.cell.startswith("conv"):
            raise self._refuse("the branch starts with its conv, so there is nothing before it to be shared")
        projected = "spike" if self.project.split()[-1] == "spike" else "membrane"
        if self.stream == "spike" and not self.after and projected != "spike":
            raise self._refuse(f"the stream carries spikes, so the projection must end in one, not '{self.project}'")
        if self.stream == "membrane" and projected == "spike":
            raise self._refuse(f"the stream carries membranes, so the projection cannot end in a spike: {self.project}")
        if self.join.binary and (self.stream != "spike" or self.after):
            carries = "membranes" if self.stream == "membrane" else "currents that a neuron after the join reads"
            raise self._refuse(
                f"join '{self.join.name}' is for spikes in {{0, 1}}, here it would join {carries}; use 'add'"
            )
        if self.join.binary and self.levels != 1:
            puts_out = f"counts up to {self.levels}" if self.levels else "real numbers"
            raise self._refuse(
                f"join '{self.join.name}' is for spikes in {{0, 1}}, and these neurons put out {puts_out}; use 'add'"
            )
        if self.join.neutral and self.starts_neutral and not self.tail_is_norm:
            raise self._refuse(
                f"a branch that ends in a conv cannot start at {self.join.neutral:g}, which join '{self.join.name}' "
                "needs to pass its skip on: leave tail_init at 1"
            )

    def _check_reach(self) -> None:
        """Check that a row that reaches further adds, on a stream that no neuron interrupts."""
        reach, combine = REACHES[self.reach], COMBINES[self.combine]
        adds = self.can_be_identity and self.join is not None and self.join.linear
        if (reach.links or combine.changes_sum) and not adds:
            raise self._refuse(
                f"reach '{self.reach}' with combine '{self.combine}' needs units that add branch and skip, "
                "with nothing behind the sum"
            )
        if combine.name == "mean" and not self.norm_meets_stream:
            raise self._refuse(
                f"combine 'mean' divides what the first neuron of '{self.cell}' reads, which then falls silent with "
                "depth: use 'sum' or 'rsqrt', or an order with a norm before that neuron"
            )


TOPOLOGIES: Registry[Topology] = Registry("topology")
