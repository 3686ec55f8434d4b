"""What a new run writes before its first step."""

import torch

from isospike.config import RunConfig
from isospike.data import Dataset
from isospike.models import model_card
from isospike.run_folder import RunFolder, write_json
from isospike.train.environment import environment


def create_run(run: RunFolder, config: RunConfig, dataset: Dataset, device: torch.device) -> None:
    """Make the run folder, with the facts of the data and the model's card in it.

    Raises:
        ConfigError: there is a run in it already, or it cannot be written.
    """
    card = model_card(
        **config.model.model_dump(),
        input_size=dataset.size,
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
    )
    run.create(config, environment(device))
    write_json(run.analysis("data"), dataset.facts())
    write_json(run.analysis("model"), card.as_dict())
