"""The training loop: read from ``fit`` downwards."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor

from isospike.config import RunConfig
from isospike.data import Augment, Batch, Dataset, Loader, to_device
from isospike.errors import ConfigError
from isospike.evaluation import Evaluation, evaluate
from isospike.layers import MEMORY
from isospike.memory import available_memory
from isospike.optimizers import set_learning_rate
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.seeding import derive_seed
from isospike.train.build import build_run_objective, build_train_loader
from isospike.train.display import Display
from isospike.train.guard import check_step
from isospike.train.initial import load_initial
from isospike.train.learner import build_learner
from isospike.train.log import Log
from isospike.train.persistence import Persistence
from isospike.train.plan import MemoryPlan, check_fits, plan_run
from isospike.train.readback import Readback
from isospike.train.start import home_of
from isospike.train.state import Best, RunState, Sums
from isospike.train.step import Figures, Step, Taken
from isospike.train.stopping import StopRequest, listen_for_signals
from isospike.train.watching import Watching

Outcome = Literal["done", "max_steps", "interrupted"]


class Trainer:
    """One run: a model, its data, and where it stands.

    Everything that draws is seeded from ``(seed, step)`` or ``(seed, epoch, batch)``, so a run that was stopped and
    resumed repeats the one that was not.

    Args:
        config: The run.
        dataset: Its images.
        run: Its folder, made already.
        world: The processes that share it.
        display: Told of every step.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, run: RunFolder, world: World, display: Display) -> None:
        self.config, self.dataset, self.run, self.world, self.display = config, dataset, run, world, display
        train = config.train
        self.learner = build_learner(config, dataset, world, home_of(run, config))
        self.model = self.learner.model
        self.train_loader = build_train_loader(config, dataset, rank=world.rank, world=world.size)
        self.test_loader = Loader(dataset.test, train.test_batch_size, shuffle=False, rank=world.rank, world=world.size)
        self.augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        self.step = Step(self.learner, build_run_objective(config, dataset, world.device), world, train)
        self.persistence = Persistence(config, run, self.learner, world)
        self.readback: Readback[Taken] = Readback(behind=1 if world.device.type == "cuda" else 0)
        self.watching = Watching(self.model, train.watch_every, display, records=world.is_first)
        self.state = RunState()
        self.steps = train.epochs * len(self.train_loader)

    def fit(self, *, max_steps: int | None = None) -> Outcome:
        """Train to the end, or until ``max_steps`` optimiser steps in all, or until a signal asks to stop.

        Raises:
            RunFailed: loss, weights or running statistics are not finite, or the disk is full; the last checkpoint
                is intact.
        """
        with ExitStack() as stack:
            self.stop: StopRequest = stack.enter_context(listen_for_signals())
            self.all_stop = False
            train, flow = self.config.train, self.watching.every > 0
            self.log = stack.enter_context(Log(self.run, self.state, train, self.world, self.display, flow=flow))
            stack.callback(self.display.end)
            self.display.begin(self.state.step, self.steps)
            if train.cuda_graph:
                self.learner.train_mode()
                self.step.capture(*self._augmented(next(self.train_loader.epoch(0))))
            limit = self.steps if max_steps is None else min(max_steps, self.steps)
            while self.state.epoch < train.epochs:
                outcome = self._train_epoch(limit)
                self._save("last")
                if outcome is not None:
                    return outcome
                tested = self._test()
                if tested is None:
                    return "interrupted"
                self._finish_epoch(tested)
            return "done"

    def start(self) -> None:
        """Take the weights that a new run starts from, where its configuration names some.

        Raises:
            CheckpointError: they cannot be read or do not fit.
            ConfigError: it would train a converted network without its weights.
        """
        train = self.config.train
        if train.weights is None and self.config.network is not None:
            path = self.run.path
            raise ConfigError(f"{path} holds a converted network, which was not trained here: go on with --from {path}")
        if train.weights is not None:
            self.display.say(load_initial(self.model, train.weights))
        elif train.freeze:
            self.display.say("train.freeze without train.weights: what is frozen keeps its random start")

    def resume(self) -> None:
        """Take up the run from its last checkpoint; a run that was ended before its first starts anew.

        Raises:
            CheckpointError: it is damaged, holds values that are not finite, is of another configuration or number of
                processes, or has done all of ``train.epochs`` that were changed since.
        """
        found = self.persistence.load(len(self.train_loader))
        if found is None:
            self.start()
            return
        self.state, said = found
        if said:
            self.display.say(said)

    def plan(self) -> MemoryPlan:
        """Predict what a step will take in this process.

        Raises:
            ConfigError: more than the device has free.
        """
        available = available_memory(self.world.device)
        asked = plan_run(self.config, self.model, self.dataset)
        if asked.further > available:
            plans = {name: plan_run(self.config, self.model, self.dataset, name) for name in MEMORY}
            check_fits(plans, asked.memory, available)
        return asked

    # One epoch, one step ------------------------------------------------------------------------------------------

    def _train_epoch(self, limit: int) -> Outcome | None:
        """Train the rest of the current epoch; return None where it came to its end."""
        outcome = self._take_steps(limit)
        self._take_down(self.readback.all())
        return outcome

    def _take_steps(self, limit: int) -> Outcome | None:
        self.learner.train_mode()
        self.log.start_clock()
        for batch in self.train_loader.epoch(self.state.epoch, self.state.batch):
            if self.state.step >= limit:
                return "max_steps"
            self._step(batch)
            if self.all_stop or (self.world.size == 1 and self.stop):
                return "interrupted"
            if self.state.step % self.config.train.checkpoint_every == 0:
                self._take_down(self.readback.all())
                self._save("last")
                self.log.start_clock()
        return "max_steps" if limit < self.steps and self.state.step >= limit else None

    def _step(self, batch: Batch) -> None:
        """Put a step to the device, and take down what the steps before have found."""
        lr, seed = self._set_learning_rate(), derive_seed(self.config.seed, 4, self.state.step, self.world.rank)
        torch.manual_seed(seed)
        images, targets, labels = self._augmented(batch)
        self.watching.see(self.state.step, images.narrow(-4, 0, len(labels) // self.config.train.accumulate))
        figures = self.step(images, targets, labels, stop=bool(self.stop))
        self.state.step += 1
        self.state.batch += 1
        flow = self.watching.record()
        taken = Taken(self.state.step, self.state.epoch + 1, lr, seed, (images, targets, labels), flow)
        self.readback.put(taken, figures)
        self._take_down(self.readback.ready())

    def _augmented(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch to images, targets and labels, on the device."""
        images, labels = (to_device(tensor, self.world.device) for tensor in (batch.images, batch.labels))
        return *self.augment.train(images, labels, batch.seed), labels

    def _take_down(self, steps: Iterable[tuple[Taken, list[float]]]) -> None:
        """Take down sums, records and the display, from what steps have found.

        Raises:
            RunFailed: it is not finite; the step has left the weights alone.
        """
        for taken, found in steps:
            figures = Figures(*found)
            check_step(self.step, taken, figures, self.run.checkpoint("last"))
            self.all_stop = figures.stops > 0
            left_out = not math.isfinite(figures.grad_norm)
            self.state.left_out += left_out
            for sums in (self.state.window, self.state.this_epoch):
                sums.add(figures.loss, figures.correct, figures.images, left_out=left_out)
            self.log.step(taken, figures)

    def _set_learning_rate(self) -> float:
        train, optim = self.config.train, self.config.optim
        lr = self.config.schedule.learning_rate(optim.lr, self.state.step, len(self.train_loader), train.epochs)
        set_learning_rate(self.learner.optimizer, lr)
        return lr

    # Tests and checkpoints ----------------------------------------------------------------------------------------

    def _test(self) -> Evaluation | None:
        model = self.learner.tested
        self.world.share_buffers(model)
        return evaluate(model, self.test_loader, self.augment, self.world, stop=self._asked_to_stop)

    def _finish_epoch(self, tested: Evaluation) -> None:
        state = self.state
        state.epoch += 1
        state.last_accuracy = tested.accuracy
        is_best = tested.accuracy > state.best.accuracy
        if is_best:
            state.best = Best(tested.accuracy, state.epoch)
        self.log.epoch(tested)
        state.batch, state.this_epoch = 0, Sums()
        if is_best:
            self._save("best")
        if state.epoch == self.config.train.epochs:
            self.persistence.save_results(tested, self.dataset)
        self._save("last")  # at the end: a run killed before it tests again and misses none of the others

    def _save(self, name: Literal["last", "best"]) -> None:
        self.log.note_sizes()
        self.persistence.save(name, self.state)

    def _asked_to_stop(self) -> bool:
        """Return whether any process got a signal: all must stop at the same step."""
        return self.world.any(bool(self.stop))
