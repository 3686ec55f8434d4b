"""From operations to energy: three ways of counting, the ANN twin, and what is only estimated.

Norms are folded into the convolutions and cost nothing. What an operation costs says an ``EnergyTable``.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from isospike.analysis.energy_tables import ENERGY_TABLES, EnergyTable
from isospike.analysis.operations import LayerWork, OperationCounter, Work
from isospike.models import ModelCard, SpikingNetwork

MJ = 1e-9  # a picojoule in millijoules

WAYS = {
    "reals_as_ac": "stem once, everything behind it as additions",
    "stem_once": "stem once, what reads real numbers as multiply-accumulates",
    "stem_every_step": "stem at every step, what reads real numbers as multiply-accumulates",
}


@dataclass(frozen=True)
class Counts:
    """Operations per sample, by what they are taken for.

    Args:
        ann: Dense multiply-accumulates of the ANN twin.
        stem: Multiply-accumulates of the stem as often as it ran.
        stem_every_step: The same, had it run at every step.
        spikes: Accumulates of the layers that read spikes or counts of them.
        reals_as_ac: Operations of the layers behind the stem that read real numbers, where the way of counting takes
            them for accumulates.
        reals_as_mac: The same operations, where it takes them for multiply-accumulates.
    """

    ann: float
    stem: float
    stem_every_step: float
    spikes: float
    reals_as_ac: float
    reals_as_mac: float

    def mj(self, table: EnergyTable) -> dict[str, float]:
        """Return the millijoules by way of counting, the ANN twin first."""
        spikes, mac, ac = self.spikes * table.ac_pj, table.mac_pj, table.ac_pj
        return {
            "ann": self.ann * mac * MJ,
            "reals_as_ac": (self.stem * mac + spikes + self.reals_as_ac * ac) * MJ,
            "stem_once": (self.stem * mac + spikes + self.reals_as_mac * mac) * MJ,
            "stem_every_step": (self.stem_every_step * mac + spikes + self.reals_as_mac * mac) * MJ,
        }


def nominal_counts(card: ModelCard, *, spikes_per_neuron: float = 1.0, real_projections: bool = True) -> Counts:
    """Count as papers do: every layer behind the stem reads ``spikes_per_neuron`` spikes per input and sample.

    For comparison with published numbers; nothing here was measured. The head counts among the layers that read
    spikes, although it reads their means: it is less than one part in a hundred.

    Args:
        card: The model's.
        spikes_per_neuron: Over all time steps.
        real_projections: Whether the projections read real numbers, as they do in a stream of currents.
    """
    units = (card.unit_macs + card.head_macs) * spikes_per_neuron
    projections = card.projection_macs * spikes_per_neuron
    return Counts(
        ann=card.stem_macs + card.unit_macs + card.projection_macs + card.head_macs,
        stem=card.stem_macs,
        stem_every_step=card.stem_macs * card.T,
        spikes=units + (0 if real_projections else projections),
        reals_as_ac=projections if real_projections else 0,
        reals_as_mac=card.projection_macs * card.T if real_projections else 0,
    )


def measured_counts(work: Work) -> Counts:
    """Count what really flowed; an integer spike k counts as k accumulates."""
    behind = [layer for layer in work.layers if layer.group != "stem"]
    stem = sum(layer.operations for layer in work.layers if layer.group == "stem")
    reals = sum(layer.macs for layer in behind)
    return Counts(
        ann=sum(layer.dense / layer.runs for layer in work.layers),
        stem=stem,
        stem_every_step=stem * (work.T if work.static else 1),
        spikes=sum(layer.graded_acs for layer in behind),
        reals_as_ac=reals,
        reals_as_mac=reals,
    )


def layer_mj(layer: LayerWork, table: EnergyTable) -> float:
    """Return the energy of one layer as it ran: accumulates for spikes, multiply-accumulates for real numbers."""
    return (layer.macs * table.mac_pj + layer.graded_acs * table.ac_pj) * MJ


def membrane_mj(work: Work, table: EnergyTable) -> float:
    """Estimate what potentials cost.

    At every step one takes a multiply-accumulate if it leaks, else an addition, to charge, and the energy of an
    addition to be compared with its threshold. Resets are free.
    """
    charge = work.leaky * table.mac_pj + (work.potentials - work.leaky) * table.ac_pj
    return work.T * (charge + work.potentials * table.ac_pj) * MJ


def memory_mj(work: Work, table: EnergyTable) -> dict[str, float]:
    """Estimate a lower bound: each number crosses the memory as seldom as it can, whatever the operations.

    At every run of a layer its weights are read once and its inputs written and read once; at every step a potential
    is read and written once. Spikes take one bit, counts the bits of their bound, all else the table's width. In the
    ANN twin every layer runs once on real numbers.
    """
    per_bit = table.memory_pj / table.memory_bits * MJ
    weights = sum(layer.runs * layer.weights for layer in work.layers) * table.bits
    inputs = sum(2 * layer.runs * layer.inputs * _width(layer, table) for layer in work.layers)
    ann = sum(layer.weights + 2 * layer.inputs for layer in work.layers) * table.bits
    parts = {"weights": weights, "inputs": inputs, "potentials": 2 * work.T * work.potentials * table.bits}
    return {**{part: bits * per_bit for part, bits in parts.items()}, "ann": ann * per_bit}


def _width(layer: LayerWork, table: EnergyTable) -> int:
    return layer.reads.bits or table.bits


@dataclass(frozen=True)
class Energy:
    """What a network did, and what that costs by one table."""

    work: Work
    table_name: str

    @property
    def table(self) -> EnergyTable:
        """The table of energies that says what an operation costs."""
        return ENERGY_TABLES[self.table_name]

    @property
    def mj(self) -> dict[str, float]:
        """Millijoules per sample by way of counting (``WAYS``), and of the ANN twin ("ann")."""
        return measured_counts(self.work).mj(self.table)

    @property
    def ratio(self) -> float:
        """How many times as much as this network its ANN twin takes, the stem and real numbers counted as they ran."""
        return self.mj["ann"] / self.mj["stem_once"]

    @property
    def ann_inside_mj(self) -> float:
        """The ANN twin without the zeros of the padding, which the usual dense count includes."""
        return sum(layer.inside / layer.runs for layer in self.work.layers) * self.table.mac_pj * MJ

    @property
    def spikes_per_neuron(self) -> float:
        """Spikes of a neuron per sample, over all time steps."""
        return self.work.spikes / self.work.neurons

    def groups(self) -> dict[str, dict[str, float]]:
        """Return the sums by part of the network, per sample."""
        sums: dict[str, dict[str, float]] = {}
        for layer in self.work.layers:
            row = sums.setdefault(layer.group, dict.fromkeys(_COLUMNS, 0.0))
            for column, value in _columns(layer, self.table).items():
                row[column] += value
        order = sorted(sums, key=lambda group: (group == "head", group == "projections"))
        return {group: sums[group] for group in order}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for ``analysis/energy.json``; energies are in millijoules per sample."""
        work, table = self.work, self.table
        return {
            "measured": True,
            "samples": work.samples,
            "T": work.T,
            "table": {"name": self.table_name, **asdict(table), "mac_pj": table.mac_pj, "ac_pj": table.ac_pj},
            "mj": self.mj,
            "ways": WAYS,
            "ann_inside_mj": self.ann_inside_mj,
            "ratio": self.ratio,
            "neurons": work.neurons,
            "spikes_per_neuron": self.spikes_per_neuron,
            "estimates": {"membrane": membrane_mj(work, table), "memory": memory_mj(work, table)},
            "groups": self.groups(),
            "layers": [{**layer.as_dict(), **_columns(layer, table)} for layer in work.layers],
        }


_COLUMNS = ("dense", "inside", "macs", "acs", "graded_acs", "mj", "ann_mj")


def _columns(layer: LayerWork, table: EnergyTable) -> dict[str, float]:
    counts = (layer.dense, layer.inside, layer.macs, layer.acs, layer.graded_acs)
    ann = layer.dense / layer.runs * table.mac_pj * MJ
    return dict(zip(_COLUMNS, (*counts, layer_mj(layer, table), ann), strict=True))


@torch.no_grad()
def measure_energy(
    model: SpikingNetwork, batches: Tensor | Iterable[Tensor], *, T: int | None = None, table: str = "45nm_float32"
) -> Energy:
    """Measure the energy of ``model`` in eval mode on real images.

    Args:
        model: The model; its mode is put back.
        batches: Images ``[B, C, H, W]``, clips ``[T, B, C, H, W]``, or several of either, normalised as in training.
        T: Time steps for static images; the model's own where it is not given.
        table: Name in ``ENERGY_TABLES``.

    Raises:
        UnknownName: no such table; the text names the nearest.
        ConfigError: the model has no spiking neuron, or a batch holds numbers that are not finite.
    """
    ENERGY_TABLES[table]
    training = model.training
    with OperationCounter(model) as counter:
        try:
            model.eval()
            for images in [batches] if isinstance(batches, Tensor) else batches:
                model(images, T=T)
        finally:
            model.train(training)
    return Energy(counter.work(), table)
