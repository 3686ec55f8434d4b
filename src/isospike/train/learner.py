"""What a run trains: the network, and all that moves with its weights."""

from dataclasses import dataclass

import torch
from torch import nn

from isospike.config import RunConfig
from isospike.data import Dataset
from isospike.layers import BatchNorm
from isospike.malloc import return_freed_memory
from isospike.models import SpikingNetwork
from isospike.optimizers import build_optimizer
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.train.averaging import MovingAverage
from isospike.train.build import build_network
from isospike.train.freezing import freeze
from isospike.train.start import check_steps


@dataclass
class Learner:
    """A network in training, with all that moves with its weights.

    Args:
        model: The network.
        network: The same, as the processes share it.
        optimizer: Of its parameters.
        scaler: Of fp16 gradients.
        average: Follows the weights, where the run averages.
        frozen: Norms that keep their running statistics.
    """

    model: SpikingNetwork
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    frozen: list[BatchNorm]

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and kept: the averaged one, where the run averages."""
        return self.average.module if self.average else self.model

    def train_mode(self) -> None:
        """Put the network into training mode, but for the norms that are frozen."""
        self.network.train()
        for norm in self.frozen:
            norm.eval()


def build_learner(config: RunConfig, dataset: Dataset, world: World, home: RunFolder) -> Learner:
    """Build what a run trains, on its device.

    Args:
        config: The run.
        dataset: Its images.
        world: Its processes.
        home: The folder that holds its network, where it is a converted one.

    Raises:
        IsospikeError: the model's name or options are wrong, a part to freeze does not exist, or the data
            have another number of time steps.
    """
    train = config.train
    model = build_network(home, config, num_classes=len(dataset.classes), in_channels=dataset.channels)
    check_steps(config, model, dataset)
    model.to(world.device)
    model.memory = train.memory
    if train.memory != "fast":
        return_freed_memory()
    frozen = freeze(model, train.freeze)
    average = MovingAverage(model, train.ema) if train.ema else None
    network = world.wrap(model, sync_norm=train.sync_norm)
    scaler = torch.amp.GradScaler(world.device.type, enabled=train.precision == "fp16")
    return Learner(model, network, build_optimizer(config.optim, model), scaler, average, frozen)
