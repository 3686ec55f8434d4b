"""Plain: no skip at all, the control of every comparison.

Source: the serial network of Zheng et al. 2021 (tdBN), arXiv:2011.05280: alpha 1 everywhere, as nothing is added.
"""

from isospike.residual.topology import TOPOLOGIES, NormInit, Topology
from isospike.residual.vanilla import TDBN_LIF

PLAIN = Topology(
    name="plain",
    source="Zheng et al. 2021, arXiv:2011.05280 (serial)",
    cell="conv norm spike",
    last="conv norm spike",
    neuron=TDBN_LIF,
    norm=NormInit(alpha=1.0),
    norm_last=NormInit(alpha=1.0),
    T=6,
    nets=("7b_net", "wide_7b_net"),
)
TOPOLOGIES.register(PLAIN.name, PLAIN)
