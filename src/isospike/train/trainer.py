"""The training loop: read from ``fit`` downwards."""

import math
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from isospike.config import RunConfig
from isospike.data import Augment, Batch, Dataset, Loader, to_device
from isospike.errors import RunFailed
from isospike.evaluation import Evaluation, as_results, evaluate
from isospike.finite import first_bad_place
from isospike.layers import MEMORY, statistics_known
from isospike.malloc import return_freed_memory
from isospike.memory import available_memory, peak_memory_mb
from isospike.optimizers import build_optimizer, set_learning_rate
from isospike.processes import World
from isospike.run_folder import RunFolder
from isospike.seeding import derive_seed
from isospike.train import checkpoint
from isospike.train.averaging import MovingAverage
from isospike.train.build import build_model, build_run_objective, build_train_loader
from isospike.train.display import Display
from isospike.train.freezing import freeze
from isospike.train.guard import ADVICE, check_state, what_is_left
from isospike.train.initial import load_initial
from isospike.train.log import Records
from isospike.train.plan import Plan, check_fits, plan_training
from isospike.train.readback import Readback
from isospike.train.start import check_steps
from isospike.train.state import Best, RunState, Sums
from isospike.train.step import PRECISIONS, Figures, Step
from isospike.train.stopping import StopRequest, listen_for_signals
from isospike.train.watching import Watching
from isospike.weights import save_tensors

Outcome = Literal["done", "max_steps", "interrupted"]
MIN_SCALE = 2.0**-10  # of fp16 gradients; below it nothing is left to lower


@dataclass(frozen=True)
class Taken:
    """A step that the device may still be at: its number and epoch, counted from 1, and all that it was given.

    Args:
        step: Number of the step.
        epoch: Number of its epoch.
        lr: Learning rate.
        seed: Of what it draws.
        batch: Images, targets, labels.
        flow: What was seen in the network, if it was watched.
    """

    step: int
    epoch: int
    lr: float
    seed: int
    batch: tuple[Tensor, Tensor, Tensor]
    flow: dict[str, Any] | None


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
        self.model = build_model(config, num_classes=len(dataset.classes), in_channels=dataset.channels)
        check_steps(config, self.model, dataset)
        self.model.to(world.device)
        self.model.memory = train.memory
        if train.memory != "fast":
            return_freed_memory()
        self.frozen = freeze(self.model, train.freeze)
        self.average = MovingAverage(self.model, train.ema) if train.ema else None
        self.network = world.wrap(self.model, sync_norm=train.sync_norm)
        self.optimizer = build_optimizer(config.optim, self.model)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=train.precision == "fp16")
        self.train_loader = build_train_loader(config, dataset, rank=world.rank, world=world.size)
        self.test_loader = Loader(dataset.test, train.test_batch_size, shuffle=False, rank=world.rank, world=world.size)
        self.augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        self.step = Step(
            self.model,
            self.network,
            self.optimizer,
            build_run_objective(config, dataset, world.device),
            self.scaler,
            world,
            train,
            self.average,
        )
        self.readback: Readback[Taken] = Readback(behind=1 if world.device.type == "cuda" else 0)
        self.watching = Watching(self.model, train.watch_every, display, records=world.is_first)
        self.state = RunState()
        self.recent: deque[tuple[float, float]] = deque(maxlen=20)  # images and seconds of the last steps
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
            self.records = stack.enter_context(self._records())
            stack.callback(self.display.end)
            self.display.begin(self.state.step, self.steps)
            if self.config.train.cuda_graph:
                self._train_mode()
                self.step.capture(*self._augmented(next(self.train_loader.epoch(0))))
            limit = self.steps if max_steps is None else min(max_steps, self.steps)
            while self.state.epoch < self.config.train.epochs:
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
        """
        train = self.config.train
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
        path = self.run.checkpoint("last")
        if not path.exists():
            self.start()
            return
        tensors, meta = checkpoint.read_checkpoint(path)
        checkpoint.check_same_run(meta["config"], self.config, path)
        checkpoint.check_finite(tensors, path)
        checkpoint.check_same_processes(meta.get("processes", self.world.size), self.world.size, self.config, path)
        checkpoint.load_run(tensors, self.model, self.average, self.optimizer, str(path))
        if self.average:
            self.average.updates = meta["averaged"]
        self.state = RunState.from_dict(meta["state"])
        said = checkpoint.changed_epochs(meta["config"], self.config, self.state, len(self.train_loader))
        if said:
            self.display.say(said)
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def plan(self) -> Plan:
        """What a step will take in this process.

        Raises:
            ConfigError: more than the device has free.
        """
        train, device = self.config.train, self.world.device
        moments = self.config.optim.moments + (1 if self.average else 0)
        images, autocast = train.batch_size // train.accumulate, PRECISIONS[train.precision]

        def plan(memory: str) -> Plan:
            return plan_training(
                self.model,
                batch=images,
                size=self.dataset.size,
                steps=self.config.augment.keep_steps or self.dataset.T,
                memory=memory,
                moments=moments,
                autocast=autocast,
            )

        asked, available = plan(train.memory), available_memory(device)
        if asked.total > available:
            check_fits({name: plan(name) for name in MEMORY}, train.memory, available)
        return asked

    def checkpoint_bytes(self) -> int:
        """What the checkpoints of this run take on the disk at most, the one being written included."""
        weights = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        averaged = 1 if self.average else 0
        last, best, final = 1 + self.config.optim.moments + averaged, 1 + averaged, 1
        return weights * (2 * last + best + final)

    # One epoch, one step ------------------------------------------------------------------------------------------

    def _train_epoch(self, limit: int) -> Outcome | None:
        """The rest of the current epoch; None where it came to its end."""
        outcome = self._take_steps(limit)
        self._take_down(self.readback.all())
        return outcome

    def _take_steps(self, limit: int) -> Outcome | None:
        self._train_mode()
        self.clock = time.perf_counter()
        for batch in self.train_loader.epoch(self.state.epoch, self.state.batch):
            if self.state.step >= limit:
                return "max_steps"
            self._step(batch)
            if self.all_stop or (self.world.size == 1 and self.stop):
                return "interrupted"
            if self.state.step % self.config.train.checkpoint_every == 0:
                self._take_down(self.readback.all())
                self._save("last")
                self.clock = time.perf_counter()
        return "max_steps" if limit < self.steps and self.state.step >= limit else None

    def _train_mode(self) -> None:
        self.network.train()
        for norm in self.frozen:
            norm.eval()

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
        """Images, targets and labels, on the device."""
        images, labels = (to_device(tensor, self.world.device) for tensor in (batch.images, batch.labels))
        return *self.augment.train(images, labels, batch.seed), labels

    def _take_down(self, steps: Iterable[tuple[Taken, list[float]]]) -> None:
        """Sums, records and the display, from what steps have found.

        Raises:
            RunFailed: it is not finite; the step has left the weights alone.
        """
        for taken, found in steps:
            figures = Figures(*found)
            self._check_finite(taken, figures)
            self.all_stop = figures.stops > 0
            self.state.window.add(figures.loss, figures.correct, figures.images)
            self.state.this_epoch.add(figures.loss, figures.correct, figures.images)
            self._take_time(images=figures.images)
            self._report_step(taken, figures.grad_norm)
            if taken.flow is not None:
                self.records.write_flow({"epoch": taken.epoch, "step": taken.step, **taken.flow})

    def _take_time(self, images: float) -> None:
        """From the end of the step before, so that waiting for data counts."""
        now = time.perf_counter()
        self.recent.append((images, now - self.clock))
        self.state.seconds += now - self.clock
        self.clock = now

    def _set_learning_rate(self) -> float:
        train, optim = self.config.train, self.config.optim
        lr = self.config.schedule.learning_rate(optim.lr, self.state.step, len(self.train_loader), train.epochs)
        set_learning_rate(self.optimizer, lr)
        return lr

    # Tests and checkpoints ----------------------------------------------------------------------------------------

    def _test(self) -> Evaluation | None:
        model = self.average.module if self.average else self.model
        self.world.share_buffers(model)
        return evaluate(model, self.test_loader, self.augment, self.world, stop=self._asked_to_stop)

    def _finish_epoch(self, tested: Evaluation) -> None:
        state = self.state
        state.epoch += 1
        state.last_accuracy = tested.accuracy
        is_best = tested.accuracy > state.best.accuracy
        if is_best:
            state.best = Best(tested.accuracy, state.epoch)
        self.display.say(
            f"epoch {state.epoch}/{self.config.train.epochs}: train accuracy "
            f"{state.this_epoch.means()['accuracy']:.2%}, test accuracy {tested.accuracy:.2%}, "
            f"best {state.best.accuracy:.2%} in epoch {state.best.epoch}"
        )
        where = {"kind": "epoch", "epoch": state.epoch, "step": state.step}
        self.records.write({**where, "split": "train", **state.this_epoch.means(), "seconds": state.seconds})
        self.records.write({**where, "split": "test", "loss": tested.loss, "accuracy": tested.accuracy})
        state.batch, state.this_epoch = 0, Sums()
        if is_best:
            self._save("best")
        if state.epoch == self.config.train.epochs:
            self._save_results(tested)
        self._save("last")  # at the end: a run killed before it tests again and misses none of the others

    def _save(self, name: str) -> None:
        if not self.world.is_first:
            return
        self.records.note_sizes(self.state)
        self.state.scaler = self.scaler.state_dict()
        tensors = checkpoint.run_tensors(self.model, self.average, self.optimizer if name == "last" else None)
        check_state(tensors, self.state.step, self.run.checkpoint("last"))
        averaged = self.average.updates if self.average else 0
        meta = {"config": self.config.model_dump(mode="json"), "state": self.state.as_dict(), "averaged": averaged}
        save_tensors(self.run.checkpoint(name), tensors, {**meta, "processes": self.world.size})

    def _save_results(self, tested: Evaluation) -> None:
        """The final weights and the final test."""
        if not self.world.is_first:
            return
        model = self.average.module if self.average else self.model
        save_tensors(self.run.weights, model.state_dict(), {"model": self.config.model.model_dump()})
        self.run.write_analyses(as_results(tested, self.dataset, checkpoint="last"))

    # What is told -------------------------------------------------------------------------------------------------

    def _records(self) -> Records:
        return Records(
            self.run,
            self.state,
            flow=self.watching.every > 0,
            tensorboard=self.config.train.tensorboard,
            display=self.display,
            writes=self.world.is_first,
        )

    def _report_step(self, taken: Taken, grad_norm: float) -> None:
        state = self.state
        images, seconds = (sum(column) for column in zip(*self.recent, strict=True))
        record = {
            "kind": "step",
            "split": "train",
            "epoch": taken.epoch,
            "step": taken.step,
            **state.window.means(),
            "lr": taken.lr,
            "grad_norm": grad_norm,
            "images_per_s": images / seconds,
            "peak_memory_mb": peak_memory_mb(self.world.device),
            "seconds": state.seconds,
        }
        self.display.step(record, taken.step)
        if taken.step % self.config.train.log_every == 0:
            self.records.write(record)
            state.window = Sums()

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal: all must stop at the same step."""
        return self.world.any(bool(self.stop))

    def _check_finite(self, taken: Taken, figures: Figures) -> None:
        if not math.isfinite(figures.loss):
            raise self._not_finite("the loss", taken)
        # In fp16 an infinite gradient is nothing unusual, until nothing is left to lower the scale by.
        hopeless = not self.scaler.is_enabled() or figures.scale < MIN_SCALE
        if hopeless and not math.isfinite(figures.grad_norm):
            raise self._not_finite("the gradient", taken)

    def _not_finite(self, what: str, taken: Taken) -> RunFailed:
        torch.manual_seed(taken.seed)
        with statistics_known():  # once more, for its gradients: the weights are still the same
            self.step.forward_backward(*taken.batch)
        where = first_bad_place(self.model, lambda: self.step.forward(*taken.batch[:2])[1])
        left = what_is_left(self.run.checkpoint("last"))
        return RunFailed(f"{what} is not finite at step {taken.step}: {where}. {ADVICE}{left}")
