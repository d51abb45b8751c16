"""Expressions for an avatar drawn from a prior: the avatar and the priors know nothing of each other."""

from __future__ import annotations

from pathlib import Path

from davatar.avatar.expressions import Expressions, through_keys
from davatar.core.errors import UsageError
from davatar.prior.code_prior import CodePrior


def sampled_expressions(count: int, prior: str | Path = "open-expression", seed: int = 0) -> Expressions:
    """From rest through `count` drawn expressions, one a second, and back to rest.

    Raises:
        MissingError: no such prior.
        UsageError: it is a prior of something else.
    """
    loaded = CodePrior.from_pretrained(prior)
    if loaded.kind != "expression":
        raise UsageError(f"{prior} is a prior of {loaded.kind} codes", mend="name one of expressions: open-expression")
    return through_keys(loaded.sample(count, seed=seed).numpy())
