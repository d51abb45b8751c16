"""What is said about the shipped priors holds; a prior that learnt nothing is told so."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from davatar.core.errors import UsageError
from davatar.diffusion.schedule import cosine_schedule
from davatar.geometry.mesh import Mesh
from davatar.prior.checkpoint import write_prior
from davatar.prior.code_prior import CodePrior
from davatar.prior.evaluation import evaluate
from davatar.prior.evidence import gather_evidence
from davatar.prior.network import NetworkConfig, build_network
from davatar.prior.normalization import LinearNormalization
from davatar.prior.population import Population


def test_the_shipped_priors_hold_their_claims():
    found = gather_evidence(["open-identity", "open-joint"], n=250, steps=10)
    assert [claim for claim in found["claims"] if not claim["holds"]] == []
    assert len(found["claims"]) == 12 and {"codes", "meshes", "loss"} <= set(found["priors"]["open-joint"])


def test_an_untrained_prior_fails_its_claims(tmp_path):
    shipped = CodePrior.from_pretrained("open-expression")
    config = NetworkConfig("mlp", width=8, blocks=1)
    nothing = replace(shipped, network=build_network(config, 53, seed=0))
    write_prior(tmp_path / "p.safetensors", nothing, config, "cosine")
    claims = gather_evidence([tmp_path / "p.safetensors"], n=100, steps=4)["claims"]
    failed = [claim["says"] for claim in claims if not claim["holds"]]
    assert "denoises held-out codes better, worse at no level" in failed


class Boxes:
    """A head model whose heads are boxes as long as their codes say."""

    identity_size, expression_size, frame = 2, 1, np.eye(4)

    def mesh(self, identity, expression, resolution):
        import trimesh

        box = trimesh.creation.box(extents=[1, 1 + 0.1 * float(identity[0]), 1])
        return Mesh(np.asarray(box.vertices), np.asarray(box.faces, np.int32))


def test_surfaces_are_compared_where_a_head_model_makes_them():
    network = build_network(NetworkConfig("mlp", width=8, blocks=1), 2, seed=0).requires_grad_(False)
    plane = LinearNormalization(np.zeros(2), np.eye(2))
    prior = CodePrior("identity", network, cosine_schedule(20), "v_prediction", plane)

    def draw(count, rng):
        return rng.standard_normal((count, 2))

    population = Population("identity", plane, draw, draw, np.zeros(2), np.ones(2), "plain")
    figures = evaluate(prior, population, n=20, steps=4, surfaces=6, head=Boxes())
    assert set(figures["surfaces"]) == {"data", "prior", "gaussian"}
    assert 5 < figures["surfaces"]["prior"]["matching"] < 200  # mm
    with pytest.raises(UsageError, match="without a head model"):
        evaluate(prior, population, n=20, surfaces=6)
    with pytest.raises(UsageError, match="more than 5 values"):
        evaluate(prior, population, n=4)
    assert torch.isfinite(torch.tensor(list(figures["surfaces"]["data"].values()))).all()
