"""`CodePrior`: a learnt density of head-model codes, ready to sample from and to lean on in a fit.

It joins five things that know nothing of each other: a network, the meaning of its output, a noise
schedule, a normalisation of codes, and a sampler. Codes are head-model codes ([B, L], no units);
what the network sees are normalised codes [B, Lw].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from davatar.core.errors import ConfigError, DataError, UsageError
from davatar.diffusion.library import LibraryName
from davatar.diffusion.parameterization import PredictionType
from davatar.diffusion.samplers import as_denoiser, sample_ancestral, sample_ddim, sample_dpm_solver, sample_unipc
from davatar.diffusion.schedule import NoiseSchedule
from davatar.prior.guidance import Mode, guidance
from davatar.prior.normalization import Normalization

Kind = Literal["identity", "expression", "joint"]
Sampler = Literal["dpm", "unipc", "ddim", "ancestral"]


@dataclass(frozen=True)
class CodePrior:
    kind: Kind
    network: nn.Module  # ([B, 1, Lw], t [B]) -> [B, 1, Lw]
    schedule: NoiseSchedule
    prediction: PredictionType
    normalization: Normalization
    about: Mapping[str, Any] = field(default_factory=dict)  # what its file says: training data, licence, figures

    @staticmethod
    def from_pretrained(name: str | Path) -> CodePrior:
        """A shipped prior ("open-identity", "open-expression"), a file or run of ours, or a published folder.

        Raises:
            MissingError: nothing of that name or path.
            DataError: what is there is no prior.
        """
        from davatar.prior.checkpoint import load_prior

        return load_prior(name)

    @property
    def code_size(self) -> int:
        return self.normalization.code_size

    def describe(self) -> dict[str, Any]:
        """What there is to know about it, as plain values."""
        return {
            "kind": self.kind,
            "code_size": self.code_size,
            "network": type(self.network).__name__,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "network_sees": self.normalization.size,
            "normalisation": self.normalization.about,
            "prediction": self.prediction,
            "noise_levels": self.steps,
            **self.about,
        }

    @property
    def steps(self) -> int:
        return len(self.schedule)

    def normalise(self, codes: Tensor) -> Tensor:
        """[..., L] -> [..., Lw]; differentiable."""
        return self.normalization.normalise(codes)

    def denormalise(self, normalised: Tensor) -> Tensor:
        """[..., Lw] -> [..., L]; differentiable."""
        return self.normalization.denormalise(normalised)

    def noise(self, n: int, seed: int = 0, generator: torch.Generator | None = None) -> Tensor:
        """[n, Lw] unit noise on normalised codes; from `generator` where one is given, else by `seed`."""
        generator = generator or torch.Generator().manual_seed(seed)
        return torch.randn(n, self.normalization.size, generator=generator)

    def scheduler(self, name: LibraryName) -> Any:
        """A diffusers scheduler with this prior's noise levels, for `sample` or for loops of one's own.

        Raises:
            ConfigError: an unknown name, or a clamp that the library cannot do (published priors, dpm and unipc).
        """
        from davatar.diffusion.library import library_scheduler

        return library_scheduler(name, self.schedule, self.prediction, self.normalization.clip)

    @torch.no_grad()
    def sample(
        self, n: int, steps: int = 20, seed: int = 0, sampler: Sampler | Any = "dpm", start: Tensor | None = None
    ) -> Tensor:
        """[n, L] codes; the same seed gives the same codes.

        Args:
            steps: noise levels walked; "dpm" (DPM-Solver++ 2M) and "unipc" need few, "ancestral" (as published)
                wants all of them.
            sampler: a name, or a scheduler of diffusers (`scheduler` makes some).
            start: [n, Lw] unit noise to start from; None: by `seed`.

        Raises:
            UsageError: fewer than one sample.
            ConfigError: a step count or sampler that does not exist.
            DataError: the network makes values that are not finite, or `start` has another shape.
        """
        if n < 1:
            raise UsageError(f"{n} samples were asked for", mend="ask for at least 1")
        generator = torch.Generator().manual_seed(seed)
        like = next(self.network.parameters())
        noise = self.noise(n, generator=generator) if start is None else start
        if noise.shape != (n, self.normalization.size):
            raise DataError(f"noise has shape {list(noise.shape)}, expected {[n, self.normalization.size]}")

        def draw() -> Tensor:
            return self.noise(n, generator=generator).to(like)[:, None]

        path = self.schedule.path_of(steps)
        denoise = as_denoiser(self.network, self.prediction, self.normalization.clip)
        first = noise.to(like)[:, None]
        if not isinstance(sampler, str):
            from davatar.diffusion.library import sample_library

            normalised = sample_library(self.network, sampler, first, steps, generator)
        elif sampler == "dpm":
            normalised = sample_dpm_solver(denoise, first, path)
        elif sampler == "unipc":
            normalised = sample_unipc(denoise, first, path)
        elif sampler == "ddim":
            normalised = sample_ddim(denoise, first, path)
        elif sampler == "ancestral":
            normalised = sample_ancestral(denoise, first, path, draw)
        else:
            raise ConfigError(f"sampler {sampler!r}, expected dpm, unipc, ddim or ancestral")
        codes = self.denormalise(normalised[:, 0])
        if not torch.isfinite(codes).all():
            raise DataError(f"the {self.kind} prior makes codes that are not finite", mend="train it again")
        return codes

    def guidance(
        self,
        codes: Tensor,
        t: Tensor | int,
        noise: Tensor | None = None,
        mode: Mode = "denoise",
        grad_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The prior's value at some codes and its gradient (spec dphm 6.4).

        Args:
            codes: [B, L]; one row per frame.
            t: time index, one for all rows or [B]; the published range is 400 to 600 of 1000.
            noise: [B, Lw] unit noise; None draws it from `generator`, or else from torch's own.
            mode: "denoise" (published) or "score".
            grad_scale: only for "score".

        Returns:
            value: scalar, mean over the rows.
            gradient: [B, L] of that mean: multiply by B for the pull on each row alone.

        Raises:
            DataError: codes of another size, not finite, or times outside the schedule.
        """
        self.check(codes)
        times = torch.as_tensor(t, device=codes.device).expand(len(codes))
        if len(times) and not (0 <= int(times.min()) and int(times.max()) < self.steps):
            raise DataError(
                f"times {int(times.min())} to {int(times.max())} leave the schedule's 0 to {self.steps - 1}"
            )
        if noise is None:
            noise = torch.randn(len(codes), self.normalization.size, generator=generator).to(codes)
        if noise.shape != (len(codes), self.normalization.size):
            expected = [len(codes), self.normalization.size]
            raise DataError(f"noise has shape {list(noise.shape)}, expected {expected}")
        parts = self.network, self.schedule, self.prediction, self.normalization
        return guidance(*parts, codes, times, noise, mode, grad_scale)

    def check(self, codes: Tensor) -> None:
        """
        Raises:
            DataError: `codes` is not [B, L] of this prior, or not finite.
        """
        if codes.ndim != 2 or codes.shape[1] != self.code_size:
            raise DataError(
                f"codes have shape {list(codes.shape)}, this {self.kind} prior takes [B, {self.code_size}]",
                mend="take the prior that was trained for this head model",
            )
        if not torch.isfinite(codes).all():
            rows = (~torch.isfinite(codes).all(dim=1)).nonzero()[:, 0].tolist()
            raise DataError(f"codes hold values that are not finite in row {', '.join(map(str, rows[:5]))}")
