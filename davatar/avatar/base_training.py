"""The shipped start of every small avatar: one network learnt from many synthetic people.

Each person has a triplane of their own (with its own optimiser state); a step sees two people, two frames
each. What is kept is the network and the mean triplane. People join one by one, so that training can
begin while later ones are still being filmed; who takes part in step k is a function of k alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from davatar.avatar.base_corpus import CorpusSettings, load_identity
from davatar.avatar.checkpoints import Position, load_state, randomness, save_state
from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.tiny import BASE_KIND, TinyAvatar, TinyTraining
from davatar.avatar.tiny_network import TinySettings
from davatar.avatar.weights import save_weights
from davatar.core.errors import ConfigError
from davatar.core.interrupt import interruptible
from davatar.core.progress import Progress, silent
from davatar.core.runs import Run

STATE_KIND = "davatar tiny avatar base training"


@dataclass(frozen=True)
class BaseSettings:
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    tiny: TinySettings = field(default_factory=TinySettings)
    training: TinyTraining = field(default_factory=lambda: TinyTraining(warm_up=50, pure_noise=0.4))
    steps: int = 5000
    people: int = 2  # per step
    frames: int = 2  # per person and step
    first: int = 8  # people that take part in the first step
    join_every: int = 12  # steps until the next one joins
    seed: int = 0
    clip: float = 1.0
    checkpoint_every: int = 500  # steps

    def __post_init__(self):
        if not self.people <= self.first <= self.corpus.identities:
            raise ConfigError(
                f"{self.people} people per step, {self.first} at first, {self.corpus.identities} in all: "
                "these must not fall"
            )


def train_base(out: Path, corpus: Path, settings: BaseSettings, progress: Progress = silent) -> Path:
    """Train and write `out/tiny-base.safetensors` (float16); resumes from `out/checkpoints`.

    Args:
        corpus: folder of `base_corpus`; people who are not there yet are filmed when their turn comes.

    Raises:
        Interrupted: a signal arrived; the state is saved.
    """
    run = Run(Path(out))
    people = People(Path(corpus), settings)
    torch.manual_seed(settings.seed)
    avatar = TinyAvatar(settings.tiny, settings.training, people=settings.corpus.identities)
    optimizer = torch.optim.Adam(avatar.parameter_groups(), betas=(0.9, 0.99), fused=True)
    config = asdict(settings.tiny) | {"identities": settings.corpus.identities}
    position = Position(seed=settings.seed)
    if found := run.latest_checkpoint():
        position = load_state(found[1], avatar.load_trained, STATE_KIND, config, [optimizer])
        run.rewind(position.step)
    else:
        avatar.prepare([maps for k in range(8) for maps in people[k][:8]])
    with interruptible() as stop, progress.task("training the base", settings.steps) as task:
        task.advance(position.step)
        losses: list[float] = []
        for step in range(position.step, settings.steps):
            losses.append(_step(avatar, optimizer, people, settings, step))
            task.advance(loss=losses[-1])
            if (step + 1) % 50 == 0:
                run.log(step + 1, loss=float(np.mean(losses)))
                losses.clear()
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps or stop.requested:
                position = Position(step + 1, seed=settings.seed)
                save_state(run, avatar.state_dict(), STATE_KIND, config, [optimizer], position, keep=1)
                stop.check()
    return write_base(avatar, settings, run.folder / "tiny-base.safetensors")


class People:
    """Frames of every person, read when first asked for."""

    def __init__(self, folder: Path, settings: BaseSettings):
        self.folder, self.settings = folder, settings
        self.known: dict[int, list[HeadMaps]] = {}

    def __getitem__(self, identity: int) -> list[HeadMaps]:
        if identity not in self.known:
            self.known[identity] = load_identity(self.folder, self.settings.corpus, identity)
        return self.known[identity]

    def at(self, step: int) -> int:
        """How many take part in a step."""
        return min(self.settings.first + step // self.settings.join_every, self.settings.corpus.identities)


def _step(
    avatar: TinyAvatar, optimizer: torch.optim.Optimizer, people: People, settings: BaseSettings, step: int
) -> float:
    rng = randomness(settings.seed, step)
    identity, frames = [], []
    for k in rng.choice(people.at(step), settings.people, replace=False):
        own = people[int(k)]
        frames += [own[i] for i in rng.choice(len(own), settings.frames, replace=False)]
        identity += [int(k)] * settings.frames
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * avatar.rate(step, step / settings.steps)
    optimizer.zero_grad(set_to_none=True)  # planes without a gradient keep their state untouched
    loss = avatar.train_step(avatar.batch(frames, identity), rng)["loss"]
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in avatar.parameters() if p.grad is not None], settings.clip)
    optimizer.step()
    return float(loss.detach())


def write_base(avatar: TinyAvatar, settings: BaseSettings, path: Path) -> Path:
    """Network, codec and mean triplane in float16, as `TinyAvatar.start_from` reads them."""
    state = {k: v for k, v in avatar.state_dict().items() if not k.startswith("textures.")}
    tensors = {name: tensor.half() for name, tensor in state.items()}
    tensors["textures.planes.0"] = torch.stack([p.detach() for p in avatar.textures.planes]).mean(0).half()
    about = {
        "licence": "Apache-2.0; trained on renderings of the ICT-FaceKit morphable model (MIT)",
        "training_data": f"{settings.corpus.identities} synthetic people x {settings.corpus.frames} frames",
        "training": f"{settings.steps} steps of {settings.people} x {settings.frames} frames, seed {settings.seed}",
    }
    save_weights(path, tensors, BASE_KIND, asdict(settings.tiny), **about)
    return path
