"""What one operation costs, as data with its source. A further process or number format is a further row."""

from dataclasses import dataclass

from isospike.registry import Registry


@dataclass(frozen=True)
class EnergyTable:
    """Energies of one process and number format.

    Args:
        process: Technology node, with the voltage where the source gives it.
        numbers: Format of weights and potentials.
        bits: Width of a weight, a potential, and of whatever is no count of spikes.
        multiply_pj: Energy of a multiplication.
        add_pj: Energy of an addition, the accumulation of products and weights.
        memory_pj: Energy of one access to a large memory on the chip.
        memory_bits: What such an access moves.
        source: Where the numbers stand, and how they were taken from there.
    """

    process: str
    numbers: str
    bits: int
    multiply_pj: float
    add_pj: float
    memory_pj: float
    memory_bits: int
    source: str

    @property
    def mac_pj(self) -> float:
        """What a multiply-accumulate costs."""
        return self.multiply_pj + self.add_pj

    @property
    def ac_pj(self) -> float:
        """What an accumulate costs, which is what a spike costs at each of its uses."""
        return self.add_pj


_HOROWITZ = "Horowitz 2014, Computing's energy problem, ISSCC, fig. 1.1.9; memory: 1 MB cache, 64 bits"


def _horowitz(numbers: str, bits: int, multiply_pj: float, add_pj: float, note: str = "") -> EnergyTable:
    return EnergyTable("45 nm, 0.9 V", numbers, bits, multiply_pj, add_pj, 100.0, 64, _HOROWITZ + note)


ENERGY_TABLES: Registry[EnergyTable] = Registry("table of energies")
ENERGY_TABLES.register("45nm_float32", _horowitz("float32", 32, 3.7, 0.9))
ENERGY_TABLES.register("45nm_float16", _horowitz("float16", 16, 1.1, 0.4))
ENERGY_TABLES.register("45nm_int32", _horowitz("int32", 32, 3.1, 0.1))
ENERGY_TABLES.register(
    "45nm_int8", _horowitz("int8", 8, 0.2, 0.1, "; 8-bit products and weights are accumulated in 32 bits")
)
