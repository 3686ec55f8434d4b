"""DS-ResNet: neurons of several levels at the end of branch and projection; the stream counts their spikes.

Source: Feng et al. 2022, "Multi-Level Firing with Spiking DS-ResNet", IJCAI 2022, arXiv:2210.06386, and its released
code: three levels, the reset in the gradient, tdBN with alpha 1 and the first threshold, which adds eps to the root of
the variance.
"""

from isospike.residual.join import ADD
from isospike.residual.topology import TOPOLOGIES, NormInit, Topology

DS = Topology(
    name="ds",
    source="Feng et al. 2022 (MLF), arXiv:2210.06386",
    cell="conv norm spike",
    last="conv norm spike",
    project="conv norm spike",
    join=ADD,
    neuron={"kind": "mlf", "levels": 3, "decay": 0.25, "v_threshold": 0.6, "surrogate": "rectangle", "strict": True},
    norm=NormInit(alpha=1.0),
    norm_last=NormInit(alpha=1.0),
    norm_project=NormInit(alpha=1.0),
    norm_eps=0.0,
    norm_root_eps=1e-5,
    weight_init="kaiming_fan_in",
    T=4,
    bodies=("imagenet", "cifar_wide"),
)
TOPOLOGIES.register(DS.name, DS)
