"""What a training would do, without doing it: steps, memory and disk, what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from davatar.avatar.memory import FLOAT, Memory, expected_memory, learnt_numbers
from davatar.avatar.settings import AvatarSettings
from davatar.dataset.rendering_data import RenderingData


@dataclass(frozen=True)
class Plan:
    train: int  # frames to learn from; 0 where the data set is yet to be made
    held_out: int
    frames_per_step: int  # over all processes
    steps: int | None  # None where seconds end the training
    epochs: float | None  # passes over the training frames
    memory: Memory
    checkpoints: int  # that are there at the end; 0 where seconds decide
    checkpoint_bytes: float  # of each
    outputs: tuple[str, ...]  # below the run's folder


def plan(folder: Path | None, settings: AvatarSettings, processes: int = 1, device: str = "cpu") -> Plan:
    """
    Args:
        folder: of the data set; None where it is yet to be made.

    Raises:
        DataError: the data set cannot be read.
    """
    splits = RenderingData(folder).splits() if folder is not None else {"train": []}
    train = len(splits["train"])
    held = sum(map(len, splits.values())) - train
    per_step, steps = settings.frames_per_step * processes, settings.budget.steps
    learnt = learnt_numbers(settings)
    state = 2 if settings.published_training.eight_bit_adam and settings.kind == "published" else 2 * FLOAT
    saved = -(-steps // settings.checkpoint_every) if steps else 0
    outputs = ["config.yaml", "manifest.json", "metrics.jsonl", "previews/step-*.png", "checkpoints/step-*"]
    outputs += [f"{name}/" for name in settings.trackers]
    return Plan(
        train=train,
        held_out=held,
        frames_per_step=per_step,
        steps=steps,
        epochs=steps * per_step / train if steps and train else None,
        memory=expected_memory(settings, train + min(held, settings.preview_frames), device),
        checkpoints=min(saved, settings.keep_checkpoints or saved),
        checkpoint_bytes=learnt * (FLOAT + state + FLOAT * bool(settings.average)),
        outputs=tuple(outputs),
    )
