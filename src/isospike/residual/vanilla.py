"""Vanilla spiking ResNet with tdBN: branch and skip are added before the last neuron of the unit.

Source: Zheng et al. 2021, "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI 2021,
arXiv:2011.05280. The two norms that are summed carry alpha = 1/sqrt(2). Its figure may put a norm on identity skips
too: ``identity="norm"`` does, and the body "resnet19_128" does where BrainCog's port of ResNet-19 has one.
"""

import math

from isospike.residual.join import ADD
from isospike.residual.topology import TOPOLOGIES, NormInit, Topology

TDBN_LIF = {"kind": "lif", "decay": 0.25, "v_threshold": 0.5, "surrogate": "rectangle", "strict": True}

VANILLA = Topology(
    name="vanilla",
    source="Zheng et al. 2021 (tdBN), arXiv:2011.05280",
    cell="conv norm spike",
    last="conv norm",
    after="spike",
    project="conv norm",
    join=ADD,
    neuron=TDBN_LIF,
    norm=NormInit(alpha=1.0),
    norm_last=NormInit(alpha=1 / math.sqrt(2)),
    norm_project=NormInit(alpha=1 / math.sqrt(2)),
    T=6,
    bodies=("imagenet", "resnet19", "resnet19_128", "cifar", "cifar_projected"),
    nets=("7b_net", "wide_7b_net"),
)
TOPOLOGIES.register(VANILLA.name, VANILLA)
