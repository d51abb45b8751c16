"""Several performances of one synthetic person, filmed by one rig: what `davatar data record` and the demo make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from davatar.capture.synthetic.record import record
from davatar.capture.synthetic.rig import Rig
from davatar.capture.synthetic.script import ExpressionScript
from davatar.capture.synthetic.subject import Subject
from davatar.capture.synthetic.template import Head
from davatar.core.errors import ConfigError
from davatar.core.progress import Progress, silent

FOCAL = 504.3 / 640  # of the depth camera, in picture widths: a Kinect's field of view


@dataclass(frozen=True)
class RecordSettings:
    subject: int = 1  # who is filmed: every number is another person
    sequences: int = 1  # how many performances
    frames: int = 40  # per sequence
    fps: float = 10.0
    expressions: tuple[str, ...] = ()  # names of `script.EXPRESSIONS` to use; empty = all
    motion: float = 1.0  # how much the head moves; 0 = not at all
    views: int = 0  # colour cameras besides the one that measures depth
    view_size: int = 128  # px, side of their pictures
    size: tuple[int, int] = (640, 576)  # px, width and height of the depth camera
    distance: float = 0.6  # m, of the depth camera
    noise: float = 1.0  # scale of the sensor noise; 0 = a perfect sensor
    landmarks: bool = False  # also write noisy facial landmarks
    detail: float = 0.08  # cm, fineness of the skin; 0.12 suits small pictures
    seed: int = 0  # of performance and noise

    def __post_init__(self):
        if min(self.sequences, self.frames) < 1 or self.views < 0 or self.view_size < 16 or min(self.size) < 16:
            raise ConfigError(
                f"sequences ({self.sequences}) and frames ({self.frames}) must be at least 1, views ({self.views}) "
                f"not negative, pictures ({self.view_size}, {self.size[0]}x{self.size[1]}) at least 16 px"
            )
        if not 0.2 <= self.distance <= 3 or min(self.fps, self.detail) <= 0 or min(self.noise, self.motion) < 0:
            raise ConfigError(
                f"distance {self.distance:g} m must lie in 0.2..3, fps {self.fps:g} and detail {self.detail:g} be "
                f"positive, noise {self.noise:g} and motion {self.motion:g} not negative"
            )


def record_performances(
    model: Head, out: str | Path, settings: RecordSettings = RecordSettings(), progress: Progress = silent
) -> list[Path]:
    """Film; an interrupted recording goes on.

    Args:
        model: the linear head model (`davatar.headmodel.morphable.open_morphable()`).
        out: folder of the recording; several sequences become folders seq-00, seq-01, ... in it.

    Returns:
        one folder per sequence, see `record`.
    """
    width, height = settings.size
    rig = Rig.single(settings.distance, width=width, height=height, focal=FOCAL * width)
    if settings.views:
        rig = rig.joined(Rig.arc(settings.views, size=settings.view_size))
    person = Subject.sample(model, settings.subject, detail=settings.detail)
    folders = sequence_folders(out, settings)
    for k, folder in enumerate(folders):
        seed = 1000 * settings.seed + k
        script = ExpressionScript.performance(
            model.expression_names,
            settings.frames,
            seed,
            fps=settings.fps,
            motion=settings.motion,
            only=settings.expressions or None,
        )
        record(
            folder,
            person,
            script,
            rig,
            noise=settings.noise,
            seed=seed,
            landmarks=settings.landmarks,
            progress=progress,
        )
    return folders


def sequence_folders(out: str | Path, settings: RecordSettings) -> list[Path]:
    """Where the sequences lie."""
    out = Path(out)
    return [out / f"seq-{k:02d}" for k in range(settings.sequences)] if settings.sequences > 1 else [out]
