"""One optimisation step of an avatar, whoever computes it.

    loss curve of N processes with batch b, accumulating a times = that of one process with batch N a b

within rounding: frames, times and noise belong to the place of a frame in the step, gradients are means over
all frames. `accelerate` brings the processes together; precision and its loss scale are handled here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from davatar.avatar.average import WeightAverage
from davatar.avatar.checkpoints import randomness
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.draws import Draws
from davatar.avatar.model import Avatar
from davatar.avatar.reading import ReadAhead
from davatar.avatar.resuming import Resumed
from davatar.avatar.settings import AvatarSettings


@dataclass(frozen=True)
class Stepped:
    """What all processes know after a step."""

    losses: np.ndarray  # [G] of every frame of the step
    levels: np.ndarray  # [G] noise level of each, 0..1
    norm: float  # of the clipped parameters' gradients, before clipping
    seconds: float  # the longest that any process took
    stop: bool  # a signal reached one of them

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


class Trainer:
    """
    Args:
        avatar: on the accelerator's device.
        optimizers: of that avatar; each group's `rate` is its step size at full height.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        avatar: Avatar,
        optimizers: Sequence[torch.optim.Optimizer],
        train: Sequence[HeadMaps],
        settings: AvatarSettings,
    ):
        self.accelerator, self.avatar, self.optimizers = accelerator, avatar, list(optimizers)
        self.train, self.settings = train, settings
        # accelerate's own mixed precision is a state of the whole program; two trainings in one program may differ.
        half = settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=half)
        self.average = WeightAverage(avatar.trained_state(), settings.average) if settings.average else None
        self.model = avatar if accelerator.num_processes == 1 else _distributed(avatar, accelerator.device)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def go_on(self, found: Resumed) -> None:
        """Take over what a checkpoint holds besides weights and optimisers."""
        if self.average is not None and found.average is not None:
            self.average.load(found.average, found.position.step)
        if found.scaler:
            self.scaler.load_state_dict(found.scaler)

    @property
    def frames_per_step(self) -> int:
        """Of all processes."""
        return self.settings.frames_per_step * self.accelerator.num_processes

    def places(self, part: int) -> range:
        """Which places of a step belong to this process's batch number `part`."""
        settings = self.settings
        first = self.accelerator.process_index * settings.frames_per_step + part * settings.batch
        return range(first, first + settings.batch)

    def indices(self, step: int, part: int) -> list[int]:
        """Which frames this process's batch number `part` of a step shows."""
        return [self._index(step * self.frames_per_step + place) for place in self.places(part)]

    def _index(self, number: int) -> int:
        """The frame at a place counted from the first step on: epochs are shuffled whole."""
        epoch, row = divmod(number, len(self.train))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.train))
            self._order = epoch, order
        return int(self._order[1][row])

    def step(self, step: int, done: float, stop: bool = False) -> Stepped:
        """
        Args:
            step: from 0.
            done: share of the budget (0..1) that was used before it.
            stop: a signal reached this process.
        """
        clock = self.clock()
        self._set_rates(step, done)
        parts = [self._accumulate(step, part) for part in range(self.settings.accumulation)]
        norm = self._move()
        losses, levels = (torch.cat(column) for column in zip(*parts, strict=True))
        known = torch.tensor([self.clock() - clock, stop, norm], dtype=torch.float64)
        mine = torch.cat([known.to(losses.device), losses, levels])[None]
        told = (self.accelerator.gather(mine) if self.accelerator.num_processes > 1 else mine).cpu().numpy()
        both = told[:, 3:].reshape(len(told), 2, -1)
        return Stepped(both[:, 0].ravel(), both[:, 1].ravel(), told[0, 2], told[:, 0].max(), bool(told[:, 1].any()))

    def clock(self) -> float:
        """s; what a budget of seconds counts."""
        return time.process_time() if self.settings.budget.clock == "cpu" else time.perf_counter()

    def _set_rates(self, step: int, done: float) -> None:
        rate = self.avatar.rate(step, done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * (rate if group.get("scheduled", True) else 1.0)
            optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, step: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of one batch; loss and noise level [B] of its frames, float64."""
        device = self.accelerator.device
        alone = self.accelerator.num_processes == 1
        last = part + 1 == self.settings.accumulation  # only then gradients travel between processes
        batch = self.avatar.batch([self.train[index] for index in self.indices(step, part)]).to(device)
        if isinstance(self.train, ReadAhead):
            self.train.expect(self.indices(step + 1, 0) if last else self.indices(step, part + 1))
        draws = [self.avatar.draw(1, randomness(self.settings.seed, step, place)) for place in self.places(part)]
        with nullcontext() if alone or last else self.model.no_sync():
            found = self.model(batch, Draws.joined(draws).to(device))
            self.scaler.scale(found["loss"] / self.settings.accumulation).backward()
        return found["losses"].detach().double(), found["levels"].detach().double()

    def _move(self) -> float:
        """Clip and move the weights; returns the gradients' norm."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        clipped = [parameter for parameter in self.avatar.clipped() if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(clipped, self.settings.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        return float(norm)


def _distributed(avatar: Avatar, device: torch.device) -> DistributedDataParallel:
    """The avatar with gradients averaged over processes."""
    return DistributedDataParallel(avatar, device_ids=[device.index] if device.type == "cuda" else None)
