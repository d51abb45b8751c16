import shutil

import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_published import CHECKS
from davatar.core.errors import DataError, MissingError
from davatar.prior.code_prior import CodePrior
from davatar.prior.published import load_published, newest_checkpoint


@pytest.fixture
def published(shared):
    folder = shared / "golden" / "dphm" / "published"
    return folder / "pretrain_models", np.load(folder / "expected.npz")


def test_published_layout_gives_the_published_numbers(recomputed, shared):
    recomputed(CHECKS, shared / "golden" / "dphm" / "published" / "expected.npz")


def test_published_layout_loads(published):
    models, expected = published
    prior = load_published(models / "dphm_iden_dim64_mults4", weights="ema")
    assert prior.prediction == "v_prediction" and prior.steps == 1000
    assert prior.code_size == expected["shape_x"].shape[-1]
    assert prior.sample(2, steps=3).shape == (2, prior.code_size)


def test_from_pretrained_takes_the_folder(published):
    models, _ = published
    assert CodePrior.from_pretrained(models / "dphm_expre_dim64_mults4").kind == "expression"


def test_without_code_table_the_range_must_be_given(published, tmp_path):
    models, expected = published
    shutil.copytree(models / "dphm_iden_dim64_mults4", tmp_path / "dphm_iden_dim64_mults4")
    with pytest.raises(MissingError, match="normalisation is unknown"):
        load_published(tmp_path / "dphm_iden_dim64_mults4")
    prior = load_published(tmp_path / "dphm_iden_dim64_mults4", bounds=(-1.0, 1.0))
    assert prior.code_size == expected["shape_x"].shape[-1]


@pytest.mark.parametrize("damage", ["truncated", "code inside", "no model entry", "other network"])
def test_damaged_checkpoints_are_named_and_never_executed(published, tmp_path, damage):
    models, _ = published
    path = tmp_path / "dphm_iden" / "checkpoints" / "model-7.pt"
    path.parent.mkdir(parents=True)
    good = newest_checkpoint(models / "dphm_iden_dim64_mults4")
    if damage == "truncated":
        path.write_bytes(good.read_bytes()[:5000])
    elif damage == "code inside":
        torch.save({"model": print}, path)
    else:
        state = torch.load(good, weights_only=True)
        if damage == "no model entry":
            del state["model"]
        else:
            del state["model"]["model.mid_attn.fn.fn.to_qkv.weight"]
        torch.save(state, path)
    with pytest.raises((DataError, MissingError), match="model-7.pt"):
        load_published(path, bounds=(-1.0, 1.0))


def test_absent_checkpoint_says_what_it_looked_for(tmp_path):
    with pytest.raises(MissingError, match="model-<milestone>.pt"):
        load_published(tmp_path)
