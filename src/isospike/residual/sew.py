"""SEW: branch and skip both end in a neuron and are joined spike by spike.

Source: Fang et al. 2021, "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021, arXiv:2102.04159, and
its code for ImageNet. Join "add" makes the stream a count of spikes; "and" and "iand" keep it binary. The logged
"add" runs did not zero the last norm; ``tail_init=0`` does.
"""

from isospike.residual.join import ADD
from isospike.residual.topology import TOPOLOGIES, Topology

SEW = Topology(
    name="sew",
    source="Fang et al. 2021, arXiv:2102.04159",
    cell="conv norm spike",
    last="conv norm spike",
    project="conv norm spike",
    join=ADD,
    neuron={
        "kind": "if",
        "v_threshold": 1.0,
        "surrogate": {"kind": "arctan", "alpha": 2.0},
        "detach_reset": True,
    },
    weight_init="kaiming_fan_out",
    T=4,
    nets=("7b_net", "wide_7b_net"),
)
TOPOLOGIES.register(SEW.name, SEW)
