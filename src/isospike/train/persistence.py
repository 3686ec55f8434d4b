"""What a run keeps on the disk of its training: checkpoints to go on from, final weights, final results."""

from typing import Literal

from isospike.config import RunConfig
from isospike.data import Dataset
from isospike.evaluation import Evaluation, as_results
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.train import checkpoint
from isospike.train.guard import check_state
from isospike.train.learner import Learner
from isospike.train.state import RunState
from isospike.weights import save_tensors


class Persistence:
    """Writes and reads the checkpoints of a run; only the first process writes.

    Args:
        config: The run.
        run: Its folder.
        learner: What it trains.
        world: Its processes.
    """

    def __init__(self, config: RunConfig, run: RunFolder, learner: Learner, world: World) -> None:
        self.config, self.run, self.learner, self.world = config, run, learner, world

    def save(self, name: Literal["last", "best"], state: RunState) -> None:
        """Write a checkpoint; the "last" one holds the optimiser too, to go on from.

        Raises:
            RunFailed: something in it is not finite, or the disk does not take it.
        """
        if not self.world.is_first:
            return
        learner = self.learner
        state.scaler = learner.scaler.state_dict()
        optimizer = learner.optimizer if name == "last" else None
        tensors = checkpoint.run_tensors(learner.model, learner.average, optimizer)
        check_state(tensors, state.step, self.run.checkpoint("last"))
        averaged = learner.average.updates if learner.average else 0
        meta = {"config": self.config.model_dump(mode="json"), "state": state.as_dict(), "averaged": averaged}
        save_tensors(self.run.checkpoint(name), tensors, {**meta, "processes": self.world.size})

    def save_results(self, tested: Evaluation, dataset: Dataset) -> None:
        """Write the final weights and the final test.

        Raises:
            RunFailed: the disk does not take them.
        """
        if self.world.is_first:
            options = self.config.model.model_dump()
            save_tensors(self.run.weights, self.learner.tested.state_dict(), {"model": options})
            self.run.write_analyses(as_results(tested, dataset, checkpoint="last"))

    def load(self, steps_per_epoch: int) -> tuple[RunState, str] | None:
        """Put the learner where the last checkpoint left it.

        Returns:
            Where the run stands, and a sentence on epochs that were changed since, or ""; None where there is no
            checkpoint.

        Raises:
            CheckpointError: it is damaged, holds values that are not finite, is of another configuration or number of
                processes, or has done all of ``train.epochs`` that were changed since.
        """
        path = self.run.checkpoint("last")
        if not path.exists():
            return None
        tensors, meta = checkpoint.read_checkpoint(path)
        checkpoint.check_same_run(meta["config"], self.config, path)
        checkpoint.check_finite(tensors, path)
        checkpoint.check_same_processes(meta.get("processes", self.world.size), self.world.size, self.config, path)
        learner = self.learner
        checkpoint.load_run(tensors, learner.model, learner.average, learner.optimizer, str(path))
        if learner.average:
            learner.average.updates = meta["averaged"]
        state = RunState.from_dict(meta["state"])
        if state.scaler:
            learner.scaler.load_state_dict(state.scaler)
        return state, checkpoint.changed_epochs(meta["config"], self.config, state, steps_per_epoch)

    def most_bytes(self) -> int:
        """Say what the checkpoints take on the disk at most, the one being written included."""
        weights = sum(tensor.nbytes for tensor in self.learner.model.state_dict().values())
        averaged = 1 if self.learner.average else 0
        last, best, final = 1 + self.config.optim.moments + averaged, 1 + averaged, 1
        return weights * (2 * last + best + final)
