"""The folder of a converted network: what a conversion is measured on, and what is written of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isospike.analysis.conversion import ConversionReport, build_report, early_exit
from isospike.config import RunConfig, apply_overrides, read_config
from isospike.data import Augment, Dataset, Loader
from isospike.data.dataset import stratified
from isospike.data.images import Chosen, Images
from isospike.errors import ConfigError
from isospike.evaluation import Evaluation, FastNetwork, as_results, evaluate
from isospike.models import ProgramNet
from isospike.processes import World
from isospike.run_folder import RunFolder, write_json
from isospike.train.build import load_trained
from isospike.train.environment import environment
from isospike.weights import from_pretrained, save_pretrained, save_tensors

NETWORK = "network.json"
BATCH = 32  # images whose maps a core's cache holds
FEW, SOME = 128, 500  # test images for errors of layers, and for early exit
LOSS, TABLE = 0.01, "45nm_float32"  # share of accuracy that may be lost, and what operations cost
# What a converted network is trained on with: it has no norms, and begins near its goal.
FURTHER: dict[str, Any] = {
    "optim": {"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    "schedule": {"kind": "cosine"},
    "train": {"epochs": 1, "batch_size": 32, "clip_norm": 1.0},
}


def config_of_own(name: str, model: str, keys: Sequence[str]) -> RunConfig:
    """Make the configuration of an ANN that no run has trained.

    Args:
        name: Of the function that makes it.
        model: Of its class.
        keys: ``data.key=value`` each.

    Raises:
        ConfigError: they do not say which data.
    """
    values = apply_overrides({"recipe": name, "model": {"name": model}, **FURTHER}, keys)
    if "kind" not in values.get("data", {}):
        raise ConfigError(
            "an ANN of your own does not say what its images are: name them with --set data.kind=cifar10, and where "
            "they are with --data-dir"
        )
    return read_config(values, "--set")


class Shown:
    """The images of a conversion: some of training to calibrate on, those of the test for figures.

    Args:
        config: Of the ANN.
        dataset: Its images.
        calibration: How many training images, of every class its share, prepared as test images are.
        tested: How many test images, likewise; None: all.
        world: This process.
        few: Test images for errors of layers.

    Raises:
        ConfigError: the data are recordings of events.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        calibration: int,
        tested: int | None,
        world: World,
        few: int = FEW,
    ) -> None:
        if dataset.T is not None:
            raise ConfigError(f"{dataset.name} holds recordings of events, and what is converted reads images")
        self.world, self.dataset, self.few = world, dataset, few
        self.augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        count = len(dataset.test)
        self.order = torch.arange(count) if tested is None else stratified(dataset.test.labels, tested)
        as_tested = dataset.train.prepared_as(dataset.test)
        self.calibration = self._images(as_tested, stratified(dataset.train.labels, calibration))
        self.labels = dataset.test.labels[self.order]

    def test(self, model: nn.Module, what: str) -> Evaluation:
        """Put a network to the test.

        Raises:
            ConfigError: its logits are not of these classes.
        """
        with torch.no_grad():
            told = model(self.calibration[:1]).shape[-1]
        if told != len(self.dataset.classes):
            raise ConfigError(
                f"{what} tells {told} classes apart, and {self.dataset.name} has {len(self.dataset.classes)}: name the "
                "data that it was trained on with --set data.kind=..."
            )
        loader = Loader(Chosen(self.dataset.test, self.order), BATCH, shuffle=False)
        found = evaluate(model, loader, self.augment, self.world)
        assert found is not None  # nothing asks it to stop
        return replace(found, confused=tuple(replace(w, index=int(self.order[w.index])) for w in found.confused))

    def report(
        self, ann: ProgramNet, net: ProgramNet, of_ann: Evaluation, tested: Evaluation, loss: float, table: str
    ) -> ConversionReport:
        """Find where the errors come from, beside the accuracies that the tests found."""
        spread = torch.linspace(0, len(self.order) - 1, min(SOME, len(self.order))).long()  # of all classes
        images, labels = self._images(self.dataset.test, self.order[spread]), self.labels[spread]
        accuracy = [hits / tested.count for hits in tested.correct_after]
        early = early_exit(net, self.calibration[:FEW], images, labels, net.T)
        few = images[torch.linspace(0, len(images) - 1, min(self.few, len(images))).long()]
        return build_report(
            ann, net, few, ann_accuracy=of_ann.accuracy, accuracy=accuracy, count=tested.count, loss=loss, early=early,
            table=table,
        )  # fmt: skip

    def _images(self, split: Images, order: Tensor) -> Tensor:
        return torch.cat([self.augment.test(part) for part in split.batches(order.split(BATCH), 0)])


@dataclass(frozen=True)
class Conversion:
    """A conversion that was done.

    Args:
        method: Its name in ``METHODS``.
        options: Of the method, but for T.
        calibration: Training images that it was done on.
        ann: What was converted.
        net: The spiking network.
        report: Both beside each other.
        tested: The spiking network's test.
        table: What an operation costs, a name in ``ENERGY_TABLES``.
    """

    method: str
    options: Mapping[str, Any]
    calibration: int
    ann: ProgramNet
    net: ProgramNet
    report: ConversionReport
    tested: Evaluation
    table: str

    def how(self) -> dict[str, Any]:
        """Say how it was done."""
        return {"method": self.method, "options": dict(self.options), "calibration": self.calibration}

    def as_dict(self, config: RunConfig, dataset: Dataset) -> dict[str, Any]:
        """Give what goes to ``analysis/conversion.json``."""
        facts = {"model": config.model.name, "data": dataset.name, "note": dataset.note, "table": self.table}
        return {**facts, **self.how(), **self.report.as_dict()}


def compare_again(
    folder: RunFolder, config: RunConfig, dataset: Dataset, world: World, few: int
) -> tuple[ConversionReport, dict[str, Any]]:
    """Compare a network that was converted, and perhaps trained on since, with the ANN that it was made of.

    Args:
        folder: Of the network.
        config: Of it.
        dataset: Its images.
        world: This process.
        few: Test images for errors of layers.

    Returns:
        Both beside each other, and what else stands in ``analysis/conversion.json``.

    Raises:
        ConfigError: the ANN is not in the folder.
    """
    if not folder.ann.is_dir():
        raise ConfigError(
            f"a converted network has no residual units to measure, and {folder.ann}, the ANN to compare it with, is "
            "not there: isospike convert writes it"
        )
    before, how = (folder.read_analysis(name) or {} for name in ("conversion", "model"))
    shown = Shown(config, dataset, FEW, None, world, few)
    ann = from_pretrained(folder.ann)
    classes, channels = len(dataset.classes), dataset.channels
    net = load_trained(folder, config, num_classes=classes, in_channels=channels, which="last")
    if not isinstance(ann, ProgramNet) or not isinstance(net, ProgramNet):
        raise ConfigError(f"{folder.ann} holds no ANN as isospike convert writes it")
    of_ann, tested = shown.test(ann, "the ANN"), shown.test(FastNetwork(net, "float32"), "the network")
    loss, table = before.get("loss", LOSS), before.get("table", TABLE)
    report = shown.report(ann, net, of_ann, tested, loss, table)
    facts = {"model": config.model.name, "data": dataset.name, "note": dataset.note, "table": table}
    said = {key: how.get(key, absent) for key, absent in (("method", "?"), ("options", {}), ("calibration", 0))}
    return report, {**facts, **said}


def write_converted(folder: RunFolder, config: RunConfig, dataset: Dataset, conversion: Conversion) -> None:
    """Write the folder of a converted network, which what reads a run reads too.

    It holds the network as a program (``network.json``) with its weights, the ANN that it was made of (``ann/``), how
    it is trained on, its test, and what the conversion cost (``analysis/conversion.json``).

    Raises:
        ConfigError: there is a run in it already, or it cannot be made.
        RunFailed: the disk does not take it.
    """
    net = conversion.net
    name = f"{config.model.name}, {conversion.method}"
    own: dict[str, Any] = {"recipe": f"{config.recipe}_{conversion.method}", "network": NETWORK}
    own |= {"model": {"name": name, "T": net.T}, **FURTHER}
    further = read_config({**config.model_dump(mode="json"), **own}, "the converted network")
    folder.create(further, environment(torch.device("cpu")))
    write_json(folder.path / NETWORK, net.as_json())
    save_tensors(folder.weights, net.state_dict(), {"model": own["model"]})
    save_pretrained(conversion.ann, folder.ann)
    facts = {"name": name, "T": net.T, "parameters": sum(p.numel() for p in net.parameters())}
    folder.write_analyses(
        {
            "data": dataset.facts(),
            "model": {**facts, "num_classes": net.num_classes, **conversion.how()},
            "conversion": conversion.as_dict(config, dataset),
            **as_results(conversion.tested, dataset, checkpoint="last"),
        }
    )
