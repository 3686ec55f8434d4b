"""The training loop: read from ``fit`` downwards."""

import math
import time
from collections import deque
from contextlib import ExitStack, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from isospike.config import RunConfig
from isospike.data import Augment, Batch, Dataset, Loader
from isospike.errors import RunFailed
from isospike.layers import MEMORY, one_statistics_update
from isospike.run_folder import MetricsWriter, RunFolder
from isospike.seeding import derive_seed
from isospike.train import checkpoint
from isospike.train.build import build_model
from isospike.train.display import Display
from isospike.train.distributed import World
from isospike.train.evaluate import Evaluation, evaluate, write_test
from isospike.train.guard import first_bad_place
from isospike.train.memory import peak_memory_mb, return_freed_memory
from isospike.train.objective import build_objective
from isospike.train.optim import build_optimizer, learning_rate
from isospike.train.plan import Plan, available_memory, check_fits, plan_training
from isospike.train.state import Best, RunState, Sums
from isospike.train.stopping import StopRequest, listen_for_signals
from isospike.train.tensorboard import Board, open_board
from isospike.train.watching import Watching
from isospike.weights import load_tensors, load_weights, save_tensors

Outcome = Literal["done", "max_steps", "interrupted"]
MIN_SCALE = 2.0**-10  # of fp16 gradients; below it nothing is left to lower
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        train, seed = config.train, config.seed
        self.model = build_model(config, num_classes=len(dataset.classes), in_channels=dataset.channels)
        self.model.to(world.device)
        self.model.memory = train.memory
        if train.memory != "fast":
            return_freed_memory()
        self.average = _average(self.model, train.ema) if train.ema else None
        self.network = world.wrap(self.model, sync_norm=train.sync_norm)
        self.optimizer = build_optimizer(config.optim, self.model)
        self.objective = build_objective(config.objective)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=train.precision == "fp16")
        shares = {"rank": world.rank, "world": world.size}
        self.train_loader = Loader(dataset.train, train.batch_size, shuffle=True, seed=seed, **shares)
        self.test_loader = Loader(dataset.test, train.test_batch_size, shuffle=False, **shares)
        self.augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        self.watching = Watching(self.model, train.watch_every, display, records=world.is_first)
        self.state = RunState()
        self.recent: deque[tuple[float, float]] = deque(maxlen=20)  # images and seconds of the last steps
        self.steps = train.epochs * len(self.train_loader)

    def fit(self, *, max_steps: int | None = None) -> Outcome:
        """Train to the end, or until ``max_steps`` optimiser steps in all, or until a signal asks to stop.

        Raises:
            RunFailed: the loss is not finite, or the disk is full; the last checkpoint is intact.
        """
        with ExitStack() as stack:
            self.stop: StopRequest = stack.enter_context(listen_for_signals())
            self._open_log(stack)
            stack.callback(self.display.end)
            self.display.begin(self.state.step, self.steps)
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

    def resume(self) -> None:
        """Take up the run from its last checkpoint; a run that was ended before its first starts anew.

        Raises:
            CheckpointError: it is damaged or of another configuration.
        """
        path = self.run.checkpoint("last")
        if not path.exists():
            return
        tensors, meta = load_tensors(path)
        checkpoint.check_same_run(meta["config"], self.config, path)
        load_weights(self.model, checkpoint.under("model", tensors), str(path))
        checkpoint.load_optimizer(self.optimizer, self.model, checkpoint.under("optim", tensors))
        if self.average:
            load_weights(self.average.module, checkpoint.under("ema", tensors), str(path))
            self.average.n_averaged.fill_(meta["averaged"])
        self.state = RunState.from_dict(meta["state"])
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def plan(self) -> Plan:
        """What a step will take in this process.

        Raises:
            ConfigError: more than the device has free.
        """
        train, device = self.config.train, self.world.device
        moments = (2 if isinstance(self.optimizer, torch.optim.AdamW) else 1) + (1 if self.average else 0)
        images = train.batch_size // train.accumulate

        def plan(memory: str) -> Plan:
            return plan_training(self.model, batch=images, size=self.dataset.size, memory=memory, moments=moments)

        asked, available = plan(train.memory), available_memory(device)
        if asked.total > available:
            check_fits({name: plan(name) for name in MEMORY}, train.memory, available)
        return asked

    def checkpoint_bytes(self) -> int:
        """What the checkpoints of this run take on the disk at most, the one being written included."""
        weights = sum(t.numel() * t.element_size() for t in self.model.state_dict().values())
        moments = 2 if isinstance(self.optimizer, torch.optim.AdamW) else 1
        averaged = 1 if self.average else 0
        last, best, final = 1 + moments + averaged, 1 + averaged, 1
        return weights * (2 * last + best + final)

    # One epoch, one step ------------------------------------------------------------------------------------------

    def _train_epoch(self, limit: int) -> Outcome | None:
        """The rest of the current epoch; None where it came to its end."""
        self.network.train()
        self.clock = time.perf_counter()
        for batch in self.train_loader.epoch(self.state.epoch, self.state.batch):
            if self.state.step >= limit:
                return "max_steps"
            self._step(batch)
            if self._asked_to_stop():
                return "interrupted"
            if self.state.step % self.config.train.checkpoint_every == 0:
                self._save("last")
                self.clock = time.perf_counter()
        return "max_steps" if limit < self.steps and self.state.step >= limit else None

    def _step(self, batch: Batch) -> None:
        lr = self._set_learning_rate()
        torch.manual_seed(derive_seed(self.config.seed, 4, self.state.step, self.world.rank))
        labels = batch.labels.to(self.world.device)
        images, targets = self.augment.train(batch.images.to(self.world.device), labels, batch.seed)
        self.watching.see(self.state.step, images[: len(images) // self.config.train.accumulate])
        loss, correct = self._forward_backward(images, targets, labels)
        sums = self.world.sum(torch.stack([loss * len(labels), correct, correct.new_tensor(len(labels))])).tolist()
        if not math.isfinite(sums[0]):
            raise self._not_finite("the loss", images, targets)
        grad_norm = self._update(images, targets)
        self.state.step += 1
        self.state.batch += 1
        self.state.window.add(*sums)
        self.state.this_epoch.add(*sums)
        self._take_time(images=sums[2])
        self._report_step(lr, grad_norm)
        self._report_flow()

    def _take_time(self, images: float) -> None:
        """From the end of the step before, so that waiting for data counts."""
        now = time.perf_counter()
        self.recent.append((images, now - self.clock))
        self.state.seconds += now - self.clock
        self.clock = now

    def _forward_backward(self, images: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss over the batch, part by part; the loss and the number of hits."""
        parts = self.config.train.accumulate
        loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        correct = torch.zeros((), dtype=torch.float64, device=self.world.device)
        with one_statistics_update(self.model) if parts > 1 else nullcontext():
            chunks = zip(images.chunk(parts), targets.chunk(parts), labels.chunk(parts), strict=True)
            for number, (x, y, true) in enumerate(chunks, start=1):
                with self._without_sync(number < parts):
                    logits, part = self._forward(x, y)
                    self.scaler.scale(part / parts).backward()
                loss += part.detach() / parts
                correct += (logits.detach().mean(0).argmax(-1) == true).sum()
        return loss, correct

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        dtype = PRECISIONS[self.config.train.precision]
        with torch.autocast(self.world.device.type, dtype, enabled=dtype is not None):
            logits = self.network(x, per_step=True)
        return logits, self.objective(logits.float(), y)

    def _update(self, images: Tensor, targets: Tensor) -> float:
        """One step of the optimiser; the norm of the gradient before clipping."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # In fp16 an infinite gradient is nothing unusual: the scaler leaves the step out and lowers its scale.
        hopeless = not self.scaler.is_enabled() or self.scaler.get_scale() < MIN_SCALE
        if hopeless and not norm.isfinite():
            raise self._not_finite("the gradient", images, targets)
        if self.config.train.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.train.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.model)
        return norm.item()

    def _set_learning_rate(self) -> float:
        train, optim = self.config.train, self.config.optim
        lr = learning_rate(self.config.schedule, optim.lr, self.state.step, len(self.train_loader), train.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _without_sync(self, hold: bool) -> Any:
        """Leave the exchange of gradients to the last part of a batch."""
        return self.network.no_sync() if hold and self.world.size > 1 else nullcontext()  # type: ignore[operator]

    # Tests and checkpoints ----------------------------------------------------------------------------------------

    def _test(self) -> Evaluation | None:
        model = self.average.module if self.average else self.model
        self.world.share_buffers(model)
        return evaluate(model, self.test_loader, self.augment, self.world, stop=self._asked_to_stop)

    def _finish_epoch(self, tested: Evaluation) -> None:
        state = self.state
        state.epoch += 1
        state.last_accuracy = tested.accuracy
        where = {"kind": "epoch", "epoch": state.epoch, "step": state.step}
        self._log({**where, "split": "train", **state.this_epoch.means(), "seconds": state.seconds})
        self._log({**where, "split": "test", "loss": tested.loss, "accuracy": tested.accuracy})
        is_best = tested.accuracy > state.best.accuracy
        if is_best:
            state.best = Best(tested.accuracy, state.epoch)
        self.display.say(
            f"epoch {state.epoch}/{self.config.train.epochs}: train accuracy "
            f"{state.this_epoch.means()['accuracy']:.2%}, test accuracy {tested.accuracy:.2%}, "
            f"best {state.best.accuracy:.2%} in epoch {state.best.epoch}"
        )
        state.batch, state.this_epoch = 0, Sums()
        if is_best:
            self._save("best")
        if state.epoch == self.config.train.epochs:
            self._save_results(tested)
        self._save("last")  # at the end: a run killed before it tests again and misses none of the others

    def _save(self, name: str) -> None:
        if not self.world.is_first:
            return
        self.state.metrics_size = self.log.size
        self.state.flow_size = self.flow_log.size if self.watching.every else 0
        self.state.scaler = self.scaler.state_dict()
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"ema.{n}": t for n, t in self.average.module.state_dict().items()}
        if name == "last":
            optimizer = checkpoint.optimizer_tensors(self.optimizer, self.model)
            tensors |= {f"optim.{n}": t for n, t in optimizer.items()}
        averaged = int(self.average.n_averaged) if self.average else 0
        meta = {"config": self.config.model_dump(mode="json"), "state": self.state.as_dict(), "averaged": averaged}
        save_tensors(self.run.checkpoint(name), tensors, meta)

    def _save_results(self, tested: Evaluation) -> None:
        """The final weights and the final test."""
        if not self.world.is_first:
            return
        model = self.average.module if self.average else self.model
        save_tensors(self.run.weights, model.state_dict(), {"model": self.config.model.model_dump()})
        write_test(self.run, tested, self.dataset, checkpoint="last")

    # What is told -------------------------------------------------------------------------------------------------

    def _open_log(self, stack: ExitStack) -> None:
        self.board: Board | None = None
        if not self.world.is_first:
            return
        self.log = MetricsWriter(self.run.metrics, self.state.metrics_size)
        stack.callback(self.log.close)
        if self.watching.every:
            self.flow_log = MetricsWriter(self.run.flow, self.state.flow_size)
            stack.callback(self.flow_log.close)
        if self.config.train.tensorboard:
            self.board = open_board(self.run.path, self.state.step, self.display)
            if self.board:
                stack.callback(self.board.close)

    def _log(self, record: dict[str, Any]) -> None:
        if not self.world.is_first:
            return
        self.log.write(record)
        if self.board:
            self.board.write(record)

    def _report_step(self, lr: float, grad_norm: float) -> None:
        state = self.state
        images, seconds = (sum(column) for column in zip(*self.recent, strict=True))
        record = {
            "kind": "step",
            "split": "train",
            "epoch": state.epoch + 1,
            "step": state.step,
            **state.window.means(),
            "lr": lr,
            "grad_norm": grad_norm,
            "images_per_s": images / seconds,
            "peak_memory_mb": peak_memory_mb(self.world.device),
            "seconds": state.seconds,
        }
        self.display.step(record, state.step)
        if state.step % self.config.train.log_every == 0:
            self._log(record)
            state.window = Sums()

    def _report_flow(self) -> None:
        seen = self.watching.record()
        if seen is None:
            return
        record = {"epoch": self.state.epoch + 1, "step": self.state.step, **seen}
        self.flow_log.write(record)
        if self.board:
            self.board.write({"kind": "step", "split": "train", **record})

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal: all must stop at the same step."""
        return self.world.any(bool(self.stop))

    def _not_finite(self, what: str, images: Tensor, targets: Tensor) -> RunFailed:
        where = first_bad_place(self.model, lambda: self._forward(images, targets)[1])
        saved = self.run.checkpoint("last")
        kept = f" The last checkpoint, {saved}, is from before." if saved.is_file() else ""
        return RunFailed(
            f"{what} is not finite at step {self.state.step + 1}: {where}. "
            f"Try a lower optim.lr, train.clip_norm, or train.precision fp32.{kept}"
        )


def _average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and running statistics."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
