"""One cell of a sweep: a run folder that any of the other commands understands, and what is measured of it."""

from collections.abc import Mapping
from typing import Literal

import torch

from isospike.analysis import gradient_norms, watch
from isospike.config import RunConfig, with_data_dir
from isospike.data import Augment, Dataset
from isospike.errors import ConfigError, IsospikeError
from isospike.models import SpikingNetwork
from isospike.processes import World
from isospike.run_folder import RunFolder, write_json
from isospike.train import Trainer
from isospike.train.build import build_model, build_train_loader, load_trained
from isospike.train.display import Display
from isospike.train.initial import load_initial
from isospike.train.start import complete_run, create_run

FLOW_IMAGES = 100  # of the test images, drawn at random but always alike
MEASURED = ("test", "gradients", "flow")  # what a finished cell has in analysis/, the last one written last
FAILURE = "failure"

Ending = Literal["done", "interrupted"]
# What may go wrong with one run and not with the next: our own errors, memory, disk, and what torch makes of them.
EXPECTED = (IsospikeError, RuntimeError, MemoryError, OSError)


def is_finished(run: RunFolder) -> bool:
    """Return whether nothing is left to do for a cell."""
    return all(run.analysis(name).is_file() for name in MEASURED)


def run_cell(config: RunConfig, dataset: Dataset, run: RunFolder, world: World, display: Display) -> Ending:
    """Train a cell, from the start or from its last checkpoint, and measure what came out.

    Raises:
        IsospikeError: it cannot train, its checkpoint is damaged, the folder holds another run, or another process
            trains it.
    """
    run.analysis(FAILURE).unlink(missing_ok=True)
    trainer = Trainer(config, dataset, run, world, display)
    begun = run.config.exists()
    if begun and _elsewhere(run.read_config(), config) != config:
        raise ConfigError(f"{run.config} is not what the plan of the sweep says: delete that folder to train it anew")
    if not begun:
        trainer.start()
    run.check_space(trainer.persistence.most_bytes())
    with run.locked():
        if begun:
            complete_run(run, config, dataset, world.device)
            trainer.resume()
        else:
            create_run(run, config, dataset, world.device)
        if trainer.fit() == "interrupted":
            return "interrupted"
        _measure(config, dataset, run, world)
    return "done"


def _elsewhere(begun: RunConfig, config: RunConfig) -> RunConfig:
    """Return the run that was begun, with its images where they are now: that alone may change."""
    place = getattr(config.data, "dir", None)
    return with_data_dir(begun, place) if hasattr(begun.data, "dir") else begun


def note_failure(run: RunFolder, reason: str) -> None:
    """Say why a cell has no result; the next attempt removes it."""
    write_json(run.analysis(FAILURE), {"reason": reason})


def _measure(config: RunConfig, dataset: Dataset, run: RunFolder, world: World) -> None:
    """Write gradients of the first part of a batch, before training and after, and the flow."""
    sizes = {"num_classes": len(dataset.classes), "in_channels": dataset.channels}
    augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
    batch = next(build_train_loader(config, dataset).epoch(0))
    part = config.train.batch_size // config.train.accumulate
    labels = batch.labels[:part].to(world.device)
    images, _ = augment.train(batch.images.narrow(-4, 0, part).to(world.device), labels, batch.seed)

    def gradients(model: SpikingNetwork) -> Mapping[str, object]:
        return gradient_norms(model.to(world.device), images, labels, seed=config.seed).as_dict()

    untrained = build_model(config, **sizes)
    if config.train.weights is not None:
        load_initial(untrained, config.train.weights)
    trained = load_trained(run, config, **sizes, which="last")
    result = {"untrained": gradients(untrained), "trained": gradients(trained)}
    write_json(run.analysis("gradients"), {"images": len(labels), **result})
    order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))[:FLOW_IMAGES]
    pixels = next(iter(dataset.test.batches([order], 0)))
    with watch(trained) as seen, torch.no_grad():
        trained(augment.test(pixels.to(world.device)))
    facts = {"model": config.model.name, "data": dataset.name, "note": dataset.note, "checkpoint": "last"}
    write_json(run.analysis("flow"), {**facts, **seen.flow().as_dict()})
