"""Membrane shortcut: the stream carries membrane currents, and neurons stand only inside the branch.

Source: Hu et al. 2024, "Advancing Spiking Neural Networks Toward Deep Residual Learning", TNNLS,
arXiv:2112.08954, and its released code: the last norm of a branch starts at 0 (0.1 in earlier code of the authors:
``tail_init=0.1``). First called SRM-ResNet.
"""

from isospike.residual.join import ADD
from isospike.residual.topology import TOPOLOGIES, NormInit, Topology

MS = Topology(
    name="ms",
    source="Hu et al. 2024, arXiv:2112.08954",
    cell="spike conv norm",
    last="spike conv norm",
    project="conv norm",
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
    norm_last=NormInit(weight=0.0),
    norm_project=NormInit(weight=0.5),
    T=6,
    bodies=("imagenet_strided", "imagenet_104", "resnet19", "cifar_pooled"),
)
TOPOLOGIES.register(MS.name, MS, aliases=("srm",))
