import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from davatar.avatar.tiny import TinyAvatar
from davatar.checks.verify.dphm_published import CHECKS
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.headmodel.weights import KIND
from davatar.prior.checkpoint import write_prior
from davatar.prior.code_prior import CodePrior
from davatar.prior.published import load_published, newest_checkpoint, stored_as
from davatar.prior.published_kind import published_kind


@pytest.fixture
def published(shared):
    folder = shared / "golden" / "dphm" / "published"
    with np.load(folder / "expected.npz") as archive:
        return folder / "pretrain_models", dict(archive)


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
    with pytest.raises((DataError, MissingError), match="model-7.pt") as refused:
        load_published(path, bounds=(-1.0, 1.0))
    assert "weights_only" not in str(refused.value), "torch's advice to run stored code is not passed on"


@pytest.mark.parametrize(
    "folder, diff_type, asked, kind",
    [
        ("dphm_iden_dim64", None, None, "identity"),
        ("identities/dphm_expre_dim64", None, None, "expression"),  # the nearest folder tells
        ("expressive/run-7", None, "identity", "identity"),  # one further away may be told otherwise
        ("run-7", "shape", None, "identity"),
        ("run-7", "joint", "joint", "joint"),
        ("dphm_expre", "shape", "identity", "identity"),  # settings know better than names
    ],
)
def test_settings_then_names_tell_what_a_prior_is_for(tmp_path, folder, diff_type, asked, kind):
    assert published_kind(_checkpoint(tmp_path / folder, diff_type), asked) == kind


@pytest.mark.parametrize(
    "folder, diff_type, asked, says",
    [
        ("dphm_iden_dim64", None, "joint", "is an identity prior by the folder's name dphm_iden_dim64, not a joint"),
        ("run-7", "expre", "identity", "is an expression prior by configs.yaml, not an identity prior"),
        ("run-7", None, None, "does not tell which codes"),
    ],
)
def test_another_kind_than_the_prior_is_for_is_refused(tmp_path, folder, diff_type, asked, says):
    with pytest.raises(DataError, match=says):
        published_kind(_checkpoint(tmp_path / folder, diff_type), asked)


def _checkpoint(folder, diff_type):
    """Where a checkpoint would lie whose settings say `diff_type`."""
    folder.mkdir(parents=True)
    if diff_type is not None:
        (folder / "configs.yaml").write_text(f"training: {{diff_type: {diff_type}}}\n")
    return folder / "checkpoints" / "model-3.pt"


def test_codes_of_another_length_than_the_head_model_s_are_refused(published, tmp_path):
    models, _ = published
    copy = tmp_path / "dphm_expre"
    shutil.copytree(models / "dphm_expre_dim64_mults4", copy)
    config = copy / "configs.yaml"
    config.write_text(config.read_text().replace("seq_length: 16", "seq_length: 200"))
    with pytest.raises(DataError, match="codes of 200 numbers .* expression codes have 16"):
        load_published(copy, head_model=models / "nphm_backward")


def test_files_of_ours_need_no_import(published, tmp_path):
    models, _ = published
    prior = load_published(models / "dphm_expre_dim64_mults4")
    run = tmp_path / "PR-1"
    write_prior(run / "prior.safetensors", prior, *stored_as(prior))
    for path in (run, run / "prior.safetensors"):
        with pytest.raises(UsageError, match=r"own expression prior already.*davatar prior sample --expression .*PR-1"):
            load_published(path)
    head = tmp_path / "head.safetensors"
    save_file({"x": torch.zeros(1)}, head, {"kind": KIND})
    with pytest.raises(UsageError, match=r"own head model already.*davatar prior sample --head-model .*head"):
        load_published(head)
    avatar = tmp_path / "DA-1" / "checkpoints" / "step-000010" / "model.safetensors"
    avatar.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, avatar, {"kind": TinyAvatar.kind})
    with pytest.raises(UsageError, match=r"own avatar already.*davatar render .*DA-1`"):
        load_published(avatar)
    with pytest.raises(DataError, match="is a head model, not a prior"):
        CodePrior.from_pretrained(head)


def test_absent_checkpoint_says_what_it_looked_for(tmp_path):
    with pytest.raises(MissingError, match="model-<milestone>.pt"):
        load_published(tmp_path)


def test_of_a_foreign_file_s_many_entries_a_few_are_named(tmp_path):
    torch.save({f"layer.{k}": torch.zeros(1) for k in range(300)}, tmp_path / "model-1.pt")
    with pytest.raises(MissingError, match=r"only layer.0, .*layer.7 and 292 more") as refused:
        load_published(tmp_path, kind="identity")
    assert len(str(refused.value)) < 400
