"""Evidence that priors model their data, as claims that hold or do not, each with the figures it rests on.

A prior has to beat the Gaussian fitted to its training values on held-out ones: coverage and minimum
matching distance on codes and on meshes, and denoising at every noise level. Where the population is that
Gaussian it has to equal it; so that identities are judged too, a small prior over families of relatives is
trained on the spot. No prior may hand out its training values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from davatar.core.progress import Progress, silent
from davatar.core.settings import resolve
from davatar.headmodel.head_model import HeadModel
from davatar.prior.code_prior import CodePrior
from davatar.prior.evaluation import evaluate, trained_population
from davatar.prior.settings import PriorSettings
from davatar.prior.training import train_prior

FAMILIES = "families"  # the name of the prior that is trained on the spot, and of its preset
OPEN = ("open-identity", "open-expression", "open-joint", FAMILIES)
SAME_COVERAGE, SAME_MATCHING, SAME_LOSS = 0.05, 0.02, 0.02  # how near "equal" is: absolute, relative, relative
SPARED = 0.5  # of the held-out values' distance to training values, below which samples are copies
MORE_COPIES = 0.01


@dataclass(frozen=True)
class Claim:
    prior: str
    says: str
    figures: str  # what it rests on, for people
    holds: bool


def gather_evidence(
    names: Sequence[str] = OPEN,
    n: int = 1000,
    steps: int = 20,
    seed: int = 0,
    surfaces: int = 0,
    head: HeadModel | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Evaluate priors and say which claims hold.

    Args:
        names: as `CodePrior.from_pretrained` takes them, or "families".
        n, steps, seed, surfaces, head: as in `evaluation.evaluate`.

    Returns:
        "priors": name -> figures of `evaluate`; "claims": list of `Claim` as dicts.

    Raises:
        MissingError: a prior is absent.
        UsageError: a prior does not say what it was trained on.
    """
    figures, claims = {}, []
    for name in names:
        prior = _trained_here(progress) if name == FAMILIES else CodePrior.from_pretrained(name)
        population = trained_population(prior)
        progress.info(f"{name}: {population.about}")
        found = evaluate(prior, population, n, steps, seed, surfaces, head, progress)
        figures[name] = found
        judge = _equals if population.normal else _beats
        claims += [Claim(name, *parts) for parts in [*judge(found), *_memorises_not(found)]]
    return {"priors": figures, "claims": [asdict(claim) for claim in claims]}


def _trained_here(progress: Progress) -> CodePrior:
    settings = resolve(PriorSettings, FAMILIES, env_prefix="").value
    with tempfile.TemporaryDirectory() as folder:
        return CodePrior.from_pretrained(train_prior("identity", settings, folder, progress))


Parts = Iterator[tuple[str, str, bool]]


def _matches(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, float], dict[str, float]]]:
    for what, unit in (("codes", ""), ("meshes", " mm"), ("surfaces", " mm")):
        if what in found:
            yield what, unit, found[what]["prior"], found[what]["gaussian"]


def _losses(found: dict[str, Any]) -> tuple[str, list[tuple[float, float]]]:
    pairs = [(pair["prior"], pair["gaussian"]) for pair in found["loss"]["held-out"].values()]
    return ", ".join(f"{ours:.3f} / {theirs:.3f}" for ours, theirs in pairs), pairs


def _beats(found: dict[str, Any]) -> Parts:
    for what, unit, ours, theirs in _matches(found):
        pair = f"{ours['coverage']:.3f} / {theirs['coverage']:.3f}"
        yield f"covers more held-out {what} than the Gaussian", pair, ours["coverage"] > theirs["coverage"]
        pair = f"{ours['matching']:.3f} / {theirs['matching']:.3f}{unit}"
        yield f"comes nearer to held-out {what} than the Gaussian", pair, ours["matching"] < theirs["matching"]
    text, pairs = _losses(found)
    better = sum(ours for ours, _ in pairs) < sum(theirs for _, theirs in pairs)
    better &= all(ours < theirs * (1 + SAME_LOSS) for ours, theirs in pairs)  # a hardly noisy code tells all of itself
    yield "denoises held-out codes better, worse at no level", text, better


def _equals(found: dict[str, Any]) -> Parts:
    for what, unit, ours, theirs in _matches(found):
        same = abs(ours["coverage"] - theirs["coverage"]) < SAME_COVERAGE
        yield f"covers held-out {what} as its Gaussian does", f"{ours['coverage']:.3f} / {theirs['coverage']:.3f}", same
        same = abs(ours["matching"] / theirs["matching"] - 1) < SAME_MATCHING
        pair = f"{ours['matching']:.3f} / {theirs['matching']:.3f}{unit}"
        yield f"comes as near to held-out {what} as its Gaussian", pair, same
    text, pairs = _losses(found)
    yield "denoises as its Gaussian does", text, all(abs(ours / theirs - 1) < SAME_LOSS for ours, theirs in pairs)


def _memorises_not(found: dict[str, Any]) -> Parts:
    ours, theirs = (found["training_neighbours"][row] for row in ("prior", "held-out"))
    text = f"nearest training value {ours['median']:.3f} (held-out {theirs['median']:.3f}), copies {ours['copies']:.1%}"
    holds = ours["median"] > SPARED * theirs["median"] and ours["copies"] <= theirs["copies"] + MORE_COPIES
    yield "does not repeat training values", text, holds
