"""`Avatar`: what both kinds have in common, and how one is made from settings or opened from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from davatar.avatar.checkpoints import AVERAGE, WEIGHTS
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.draws import Draws
from davatar.avatar.precision import choose
from davatar.avatar.settings import AvatarSettings
from davatar.avatar.weights import read_weights
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.core.progress import Progress, silent
from davatar.core.runs import Run
from davatar.core.settings import from_mapping


class Avatar(Protocol):
    """A torch module; `batch` packs frames, `frame_losses` and `render` take such a batch."""

    kind: str
    resolution: int
    expression_size: int
    told: str  # "weights" or "codes": which expression it is told

    autocast: torch.dtype | None  # half precision inside the network

    def batch(self, frames: Sequence[HeadMaps]) -> Any: ...
    def draw(self, count: int, rng: np.random.Generator) -> Draws: ...
    def frame_losses(self, batch: Any, draws: Draws) -> dict[str, torch.Tensor]: ...  # also what calling it does
    def render(self, batch: Any, noise: torch.Tensor, steps: int = 1) -> torch.Tensor: ...
    def noise(self, rng: np.random.Generator, count: int = 1) -> torch.Tensor: ...
    def lighten(self) -> None: ...  # once, before a training: what is never learnt may take less memory
    def compute_in(self, precision: torch.dtype) -> None: ...  # once, before rendering
    def compile_denoiser(self, **options: Any) -> None: ...  # once; see `compiling`
    def prepare(self, frames: Sequence[HeadMaps]) -> None: ...  # before the first step of a fresh training
    def optimizers(self) -> list[torch.optim.Optimizer]: ...
    def rate(self, step: int, done: float) -> float: ...
    def clipped(self) -> list[torch.nn.Parameter]: ...
    def trained_state(self) -> dict[str, torch.Tensor]: ...
    def load_trained(self, tensors: dict[str, torch.Tensor], path: Path) -> None: ...
    def sizes(self) -> dict[str, Any]: ...


def new_avatar(settings: AvatarSettings, device: str = "cpu") -> Avatar:
    """An untrained avatar: random from `settings.seed`, or started as `settings.start` says.

    Raises:
        MissingError: the start, or the frozen base of the published kind, is not there; says what to place where.
        DataError: the start was made with other sizes.
    """
    torch.manual_seed(settings.seed)
    if settings.kind == "published":
        from davatar.avatar.published import PublishedAvatar

        avatar: Avatar = PublishedAvatar.from_settings(settings.published, settings.published_training)
    else:
        from davatar.avatar.tiny import TinyAvatar

        avatar = TinyAvatar(settings.tiny, settings.tiny_training)
    precision = choose(settings.precision, settings.kind, device)
    avatar.autocast = None if precision == torch.float32 else precision
    if settings.start == "base" and settings.kind == "tiny":
        with as_file(files("davatar.assets") / "avatar" / "tiny-base.safetensors") as path:
            if not path.is_file():
                raise MissingError("the shipped base is absent", file=path, mend="reinstall, or use --from scratch")
            avatar.start_from(path)
    elif settings.start not in ("base", "scratch"):
        path = Path(settings.start)
        if not path.exists():
            raise MissingError("no such weights", file=path, mend="give a weights file, base or scratch")
        avatar.start_from(path)
    return avatar


def open_avatar(
    run: Run, step: int | None = None, device: str = "cpu", base: str | None = None, progress: Progress = silent
) -> tuple[Avatar, AvatarSettings, int]:
    """The avatar of a run or of a published archive at a checkpoint (default: the latest), its settings, and the step.

    Where the training kept an average of the weights, that is what the avatar holds.

    Args:
        base: the frozen base of the published kind, if not the one that its settings name.

    Raises:
        UsageError: a base for the small avatar, which has none.
        MissingError: the run has no such checkpoint, or its frozen base is not there.
        DataError: the checkpoint is broken or does not fit its run's config.
    """
    if run.published:
        from davatar.avatar.published_checkpoint import open_published

        archived, step = open_published(run.folder, step, base, progress)
        settings = AvatarSettings(
            kind="published",
            start="scratch",
            published=archived.settings,
            published_training=archived.training_settings,
        )
        return archived.to(device), settings, step
    settings = from_mapping(AvatarSettings, run.config, str(run.folder / "config.yaml"))
    if base is not None and settings.kind == "tiny":
        raise UsageError("the small avatar has no frozen base", file=run.folder, mend="leave out --base")
    if base is not None:
        settings = replace(settings, published=replace(settings.published, base=base, revision=None))
    known = run.checkpoints()
    latest = run.latest_checkpoint()
    if latest is None or (step is not None and step not in known):
        have = f"there are {', '.join(map(str, known))}" if known else "train it first"
        raise MissingError(f"no checkpoint{'' if step is None else f' {step}'}", file=run.folder, mend=have)
    step, folder = latest if step is None else (step, known[step])
    avatar = new_avatar(replace(settings, start="scratch"), device)
    file = folder / (AVERAGE if (folder / AVERAGE).is_file() else WEIGHTS)
    try:
        tensors, _ = read_weights(file, avatar.kind, avatar.sizes())
    except DataError as error:
        if others := [str(other) for other in known if other != step]:
            error.mend = f"choose another checkpoint: {', '.join(others)}"
        raise
    avatar.load_trained(tensors, file)
    return avatar.to(device).eval(), settings, step
