"""How an avatar computes its pictures, whatever they show: on which device, in which number format, by whose code.

`davatar render` and `davatar eval` prepare an avatar here, so that both follow the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davatar.avatar.compiling import compile_denoiser
from davatar.avatar.model import Avatar
from davatar.avatar.precision import Precision, for_painting
from davatar.avatar.published_settings import AttentionName
from davatar.core.content import hash_path
from davatar.core.errors import UsageError


@dataclass(frozen=True)
class Computing:
    device: str = "cpu"
    precision: Precision = "auto"  # see `precision.for_painting`
    compat: bool = False  # the published way of sampling
    preview_decoder: Path | None = None  # folder of a small decoder; of the published kind
    compile: bool = False  # the denoiser; see `compiling`
    attention: AttentionName = "sdpa"  # see `attention`; of the published kind

    def prepare(self, avatar: Avatar, trained: str = "auto") -> dict[str, Any]:
        """Make an opened avatar ready to paint.

        Args:
            trained: the precision that the run's settings name.

        Returns:
            What of this the pictures depend on, by name.

        Raises:
            UsageError: something is asked for that the small avatar has not.
            MissingError, DataError: see `load_preview_decoder`, `set_attention`.
        """
        kind = "published" if "published" in avatar.kind else "tiny"
        told = {}
        if kind == "tiny":
            self._check_tiny()
        if self.preview_decoder is not None:
            told["preview_decoder"] = self._replace_decoder(avatar)
        if self.attention != "sdpa":
            from davatar.avatar.attention import set_attention

            set_attention((avatar.controlnet, avatar.unet), self.attention, self.device)
            told["attention"] = self.attention
        precision = for_painting(self.precision, kind, self.device, trained, self.compat)
        avatar.to(self.device)
        avatar.compute_in(precision)
        if self.compile and compile_denoiser(avatar):
            told["compiled"] = True
        return {"precision": str(precision).removeprefix("torch."), **told}

    def _check_tiny(self) -> None:
        if self.preview_decoder is not None:
            raise UsageError(
                "the small avatar paints pixels and has no decoder to replace", mend="leave out --preview-decoder"
            )
        if self.attention != "sdpa":
            raise UsageError(
                f"{self.attention} is for avatars of the published kind", mend="leave out --attention: sdpa is used"
            )

    def _replace_decoder(self, avatar: Avatar) -> str:
        """Give the avatar the small decoder; returns the hash of its weights."""
        from davatar.avatar.preview_decoder import WEIGHTS, load_preview_decoder
        from davatar.avatar.published import FACTOR

        avatar.preview_decoder = load_preview_decoder(self.preview_decoder, avatar.latent_shape[0], FACTOR)
        return hash_path(Path(self.preview_decoder).expanduser() / WEIGHTS)
