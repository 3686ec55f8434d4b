"""What a bench measures: cases, and suites of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from isospike.registry import Registry

Work = Literal["train", "infer", "fire_train", "fire", "frames", "convert", "simulate"]

# A decay and a threshold of 1/2, so that every contestant's formula is exact (see describe.fire_tensors).
EXACT_LIF: dict[str, Any] = {
    "decay": 0.5,
    "gain": 1.0,
    "v_threshold": 0.5,
    "reset": "to_value",
    "v_reset": 0.0,
    "detach_reset": True,
    "surrogate": "rectangle",
    "surrogate_parameter": 1.0,
}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        work: "train" (forward, loss, backward; no optimiser) or "infer" of a model, "fire_train" or "fire" (no
            gradient) of LIF neurons alone, "frames": a recording of events cut into T frames; "convert": an ANN made
            spiking by calibration images, or "simulate": T steps of the network that it became.
        model: Name of the model; of neurons, how many channels: "64 channels"; of frames, how many events.
        batch: Images; of "convert", those of the calibration.
        T: Time steps.
        peer: Name in ``PEERS``; None: ours and its floor alone.
        options: Of ``create_model``.
        size: Height and width.
        precision: "float32", or "bf16" (autocast).
        every_mode: Whether ours is measured in all its modes, not in its default alone.
    """

    work: Work
    model: str
    batch: int = 32
    T: int = 4
    peer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32
    precision: str = "float32"
    every_mode: bool = True

    @property
    def fires(self) -> bool:
        """Whether it is a case of neurons alone."""
        return self.work.startswith("fire")

    @property
    def counts(self) -> bool:
        """Whether it is a case of frames of events."""
        return self.work == "frames"

    @property
    def converts(self) -> bool:
        """Whether it is a case of a converted ANN, whose thresholds every library chooses in its own way."""
        return self.work in ("convert", "simulate")

    @property
    def has_network(self) -> bool:
        """Whether it is a case of a spiking model, which is one function for all."""
        return not self.fires and not self.counts and not self.converts

    @property
    def number(self) -> int:
        """Channels, of a case of neurons alone; events, of one of frames."""
        return int(self.model.split()[0].replace(",", ""))


CIFAR_18 = {"stem": "cifar", "num_classes": 10}
NEURONS_64 = "64 channels"


def _quick() -> list[Case]:
    """Return cases of a minute: the training step that everyone compares."""
    return [
        Case("fire_train", NEURONS_64, batch=8, peer="spikingjelly"),
        Case("train", "ms_resnet20", batch=8, peer="spikingjelly"),
        Case("infer", "ms_resnet20", batch=8, peer="spikingjelly"),
    ]


def _cpu() -> list[Case]:
    """Return the cases of docs/performance.md: neurons, training steps and inference beside both peers."""
    return [
        *(
            Case(work, NEURONS_64, peer=peer)
            for peer in ("spikingjelly", "snntorch")
            for work in ("fire_train", "fire")
        ),
        Case("train", "ms_resnet20", peer="spikingjelly"),
        Case("train", "ms_resnet20", peer="snntorch", every_mode=False),
        Case("train", "sew_resnet20", peer="spikingjelly"),
        Case("train", "ms_resnet18", peer="spikingjelly", options=CIFAR_18),
        Case("infer", "ms_resnet20", peer="spikingjelly"),
        Case("infer", "ms_resnet18", peer="spikingjelly", options=CIFAR_18),
        Case("infer", "ms_resnet20", batch=1, peer="spikingjelly"),
    ]


def _gpu() -> list[Case]:
    """Return ImageNet's networks under autocast, deep thin ones bound by launches, neurons and small networks."""
    cases = [
        Case("train", model, batch=64, peer="spikingjelly", size=224, precision="bf16", every_mode=False)
        for model in ("ms_resnet34", "sew_resnet34")
    ]
    cases.append(Case("train", "ms_resnet110", batch=100, T=6, peer="spikingjelly", every_mode=False))
    cases.append(Case("train", "ms_resnet482", batch=100, T=6))
    cases += [Case(work, NEURONS_64, batch=128, peer="spikingjelly") for work in ("fire_train", "fire")]
    for precision in ("float32", "bf16"):
        for model, options in (("ms_resnet20", {}), ("sew_resnet20", {}), ("ms_resnet18", CIFAR_18)):
            for work in ("train", "infer"):
                cases.append(Case(work, model, 128, peer="spikingjelly", options=options, precision=precision))
    cases.append(Case("train", "ms_resnet20", batch=128, peer="snntorch"))
    return cases


GROWTH = {
    "depth": [20, 56, 110, 218, 482],
    "T": [1, 2, 4, 8, 16],
    "batch": [2, 8, 32, 128],
    "width": [8, 16, 32, 64],
}


def _growth() -> list[Case]:
    """Return training steps along depth, T, batch and width, everything else of ms_resnet20 at T=4 and batch 8 held."""
    cases = [growth_case(axis, value) for axis, values in GROWTH.items() for value in values]
    return [case for index, case in enumerate(cases) if case not in cases[:index]]


def growth_case(axis: str, value: int) -> Case:
    """Return the point of a growth curve."""
    if axis == "depth":
        return Case("train", f"ms_resnet{value}", batch=4, every_mode=False)
    if axis == "width":
        return Case("train", "ms_resnet20", batch=8, options={"width": value}, every_mode=False)
    return Case("train", "ms_resnet20", every_mode=False, **{"batch": 8, axis: value})  # type: ignore[arg-type]


def _events() -> list[Case]:
    """Frames of a recording of CIFAR10-DVS's size, beside both libraries that make such frames."""
    return [
        Case("frames", "200,000 events", batch=1, T=10, size=128, peer=peer, every_mode=False)
        for peer in ("spikingjelly", "tonic")
    ]


def _export() -> list[Case]:
    """Return inference of exported networks in ONNX Runtime, beside eval and our own runtime, in all precisions."""
    return [
        Case("infer", model, batch, peer="onnxruntime", options=options)
        for model, options in (("ms_resnet20", {}), ("ms_resnet18", CIFAR_18))
        for batch in (1, 32)
    ]


def _conversion() -> list[Case]:
    """Return conversion of a ResNet-20 by 1,000 images, and simulation of what it became, beside SpikingJelly's."""
    ann: dict[str, Any] = {"options": {"neuron": "relu"}, "peer": "spikingjelly", "every_mode": False}
    return [
        Case("convert", "vanilla_resnet20", batch=1000, T=64, **ann),
        Case("simulate", "vanilla_resnet20", batch=32, T=64, **ann),
    ]


SUITES: Registry[Callable[[], list[Case]]] = Registry("suite")
for _suite in (_quick, _cpu, _gpu, _growth, _events, _export, _conversion):
    SUITES.register(_suite.__name__.removeprefix("_"), _suite)
