"""The published training against numbers of the original: losses, code gradients, three optimisation steps."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from davatar.headmodel.auto_decoder import AutoDecoder, rate_factor
from davatar.headmodel.code_table import CodeTable
from davatar.headmodel.published import config_from_shapes, from_published
from davatar.headmodel.published_losses import WEIGHTS, ScanBatch, published_losses, total_loss

NAMES = {
    "surface": "points_surface", "surface_normal": "normals_surface", "outer": "points_surface_outer",
    "outer_normal": "normals_surface_outer", "near": "points_off_surface", "far": "sup_grad_far",
    "posed": "corresp_posed", "neutral": "corresp_neutral", "anchors": "gt_anchors",
}  # fmt: skip
FLAGS = {"is_neutral": "is_neutral", "has_correspondences": "has_corresp", "has_anchors": "has_anchors",
         "supervise_hair": "supervise_hair"}  # fmt: skip


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "dphm"
    return folder, np.load(folder / "A_training_losses.npz"), np.load(folder / "A_training_steps.npz")


def model_of(folder, arrays):
    state = load_file(folder / "D_decoder.safetensors")
    parts = [{k[9:]: v.double() for k, v in state.items() if k.startswith(p)} for p in ("id_model.", "ex_model.")]
    config = config_from_shapes(*parts, arrays["geo"].shape[-1], json.loads(bytes(arrays["config"]))["K"])
    anchors = torch.from_numpy(np.load(folder / "A_mean_anchors.npz")["anchors_f32"]).double()
    return from_published(*parts, config, anchors)


def batch_of(arrays) -> ScanBatch:
    parts = {ours: torch.from_numpy(arrays[theirs]) for ours, theirs in NAMES.items()}
    parts |= {ours: torch.from_numpy(arrays[theirs]).bool() for ours, theirs in FLAGS.items()}
    return ScanBatch(**parts, regularised=torch.from_numpy((arrays["reg_rand"] - 0.5) * 2.5))


def test_golden_losses_at_every_switch(golden):
    folder, arrays, _ = golden
    model, batch = model_of(folder, arrays), batch_of(arrays)
    names = [str(name) for name in arrays["loss_names"]]
    assert list(WEIGHTS) == names
    np.testing.assert_allclose(list(WEIGHTS.values()), arrays["lambdas"])
    for epoch, wanted, total in zip(arrays["epochs"], arrays["loss_values"], arrays["total"], strict=True):
        identity, expression = (torch.from_numpy(arrays[k][:, 0]).requires_grad_() for k in ("geo", "exp"))
        losses = published_losses(model, batch, identity, expression, int(epoch))
        found = [float(losses[name].detach()) for name in names]
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12, err_msg=f"epoch {epoch}")
        np.testing.assert_allclose(float(total_loss(losses).detach()), total, rtol=1e-6)
        if epoch == 0:
            leaves = [identity, expression, model.identity.position[0].weight, model.deformation.layers[3].weight]
            gradients = torch.autograd.grad(total_loss(losses), leaves)
    wanted = [arrays[f"grad_{n}_epoch0"] for n in ("geo", "exp", "mlp_pos0", "lin3")]
    wanted[0], wanted[1] = wanted[0][:, 0], wanted[1][:, 0]
    for found, right in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6 * np.abs(right).max())


def test_golden_optimisation_steps(golden):
    folder, arrays, steps = golden
    trainer = AutoDecoder(model_of(folder, arrays), len(steps["geo_table0"]), len(steps["exp_table0"]))
    tables = (trainer.identity, "geo"), (trainer.expression, "exp")
    for table, name in tables:
        table.weight.data.copy_(torch.from_numpy(steps[f"{name}_table0"]))
    batch = batch_of(arrays)
    rows = [torch.from_numpy(steps[f"{name}_index"][:, 0]) for name in ("subj", "exp")]
    for step in (1, 2, 3):
        figures = trainer.step(batch, *rows, int(steps["epoch"]))
        assert figures["loss"] == pytest.approx(steps["totals"][step - 1], rel=1e-7)
        norms = figures["norm_identity"], figures["norm_deformation"]
        np.testing.assert_allclose(norms, steps["grad_norms_before_clip"][step - 1], rtol=1e-6)
        for table, name in tables:
            np.testing.assert_allclose(table.weight.detach(), steps[f"{name}_table{step}"], rtol=0, atol=1e-12)
        ours = {
            "id_model.mlp_pos.4.bias": trainer.model.identity.position[2].bias,
            "id_model.deepSDFensemble.layers.3.layers.2.weight": trainer.model.identity.weights[1][3],
            "id_model.deepSDFensemble.layers.23.layers.8.weight": trainer.model.identity.weights[4][23],
            "ex_model.defDeepSDF.lin6.weight": trainer.model.deformation.layers[6].weight,
            "ex_model.compressor.0.bias": trainer.model.deformation.compressor.bias,
        }
        for key, value in ours.items():
            np.testing.assert_allclose(value.detach(), steps[f"step{step}:{key}"], rtol=0, atol=1e-12, err_msg=key)


def test_a_code_table_moves_only_what_is_looked_up():
    table = CodeTable(4, 3, rate=0.1)
    table.weight.data.copy_(torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0.1, 0, 0], [0, 0, 0.5]]))
    rows = torch.tensor([0, 2, 0])
    codes = table.look_up(rows)
    torch.testing.assert_close(codes[0], torch.tensor([1.0, 0, 0]))
    assert table.weight[1, 1] == 3.0, "rows that are not asked keep their norm"
    before = table.weight.detach().clone()
    (codes * torch.tensor([[1.0], [1.0], [3.0]])).sum().backward()
    table.step(rows, codes.grad)
    moved = table.weight.detach() - before
    assert (moved[[1, 3]] == 0).all() and (moved[[0, 2]] < 0).all()
    other = CodeTable(4, 3, rate=0.1)
    other.restore(table.state())
    assert torch.equal(other.weight, table.weight)


def test_rates_halve_at_their_epochs():
    changes = [epoch for epoch in range(1, 1900) if rate_factor(epoch) < rate_factor(epoch - 1)]
    assert changes == [350, 700, 1050, 1300, 1550, 1800]
    assert rate_factor(0) == 1 and rate_factor(1050) == 0.125
