"""The densely additive family: the four orders of conv, norm and spike whose units add to an untouched stream.

Our reading of Li et al. 2023, "Rethinking Residual Connection in Training Large-Scale Spiking Neural Networks"
(DANet), arXiv:2311.05171, of which only the abstract was available: four architectures, T = 4. The letters of a name
are its order. Between its own units every stage is densely additive: each output reaches every later unit by
addition. ``reach`` and ``combine`` extend that over stages.
"""

from dataclasses import replace

from isospike.residual.join import ADD
from isospike.residual.topology import TOPOLOGIES, NormInit, Topology

DA_CNS = Topology(
    name="da_cns",
    source="our reading of Li et al. 2023 (DANet), arXiv:2311.05171; the full text was not available",
    cell="conv norm spike",
    last="conv norm spike",
    project="conv norm spike",
    join=ADD,
    neuron={
        "kind": "lif",
        "decay": 0.25,
        "v_threshold": 0.5,
        "surrogate": {"kind": "rectangle", "width": 1.0},
        "strict": True,
        "detach_reset": True,
    },
    norm=NormInit(weight=0.5),
    norm_last=NormInit(weight=0.5),
    norm_project=NormInit(weight=0.5),
    weight_init="kaiming_fan_out",
    T=4,
    bodies=("imagenet", "cifar"),
)
DA_NCS = replace(DA_CNS, name="da_ncs", cell="norm conv spike", last="norm conv spike")
DA_SCN = replace(
    DA_CNS,
    name="da_scn",
    cell="spike conv norm",
    last="spike conv norm",
    project="conv norm",
    norm_last=NormInit(weight=0.1),  # a fifth of the threshold: without a small tail the stream outgrows its neurons
)
DA_NSC = replace(DA_CNS, name="da_nsc", cell="norm spike conv", last="norm spike conv", project="conv")

for _row in (DA_CNS, DA_NCS, DA_SCN, DA_NSC):
    TOPOLOGIES.register(_row.name, _row)
