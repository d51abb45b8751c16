"""The published numbers of the head model (spec dphm 10.1) and the golden fixtures made with upstream's modules."""

import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_field import CHECKS
from davatar.headmodel.published import config_from_shapes


@pytest.fixture()
def spec_codes(wave):
    identity = torch.from_numpy(wave(84, 0.7, 0.1, 0.3))[None].requires_grad_()
    expression = torch.from_numpy(wave(6, 1.1, 0.4, 0.5))[None].requires_grad_()
    return identity, expression, torch.from_numpy(wave(15, 0.83, 0.6, 0.25).reshape(1, 5, 3)).requires_grad_()


def close(found, wanted):
    np.testing.assert_allclose(found.detach().numpy(), np.array(wanted), rtol=1e-5, atol=1e-7)


def test_widths_follow_from_shapes(wave_head_states):
    identity, deformation, config = wave_head_states
    assert len(identity) == 246 and min(identity) == "deepSDFensemble.layers.0.layers.0.bias"
    assert len(deformation) == 16 and min(deformation) == "compressor.0.bias"
    assert config_from_shapes(identity, deformation, identity_size=84) == config


def test_spec_vectors(wave_head, spec_codes):
    identity, expression, x = spec_codes
    anchors = wave_head.identity.anchors(identity)
    close(anchors[0, :2], [[-0.017076252, 0.203158746, -0.365501188], [0.112596564, -0.093312377, -0.283324733]])
    compressed = wave_head.deformation.compressor(torch.cat([identity, anchors.flatten(1)], 1))
    close(compressed[0], [-0.0594711190, -0.317022438, -0.204322059])
    canonical = wave_head.to_canonical(x, identity, expression)
    close(
        (canonical[..., :3] - x)[0],
        [[-0.013712061, 0.017193566, 0.063676955], [-0.014013398, 0.017070522, 0.064220333],
         [-0.013726393, 0.017145563, 0.063785714], [-0.014106451, 0.017587351, 0.063296724],
         [-0.014054949, 0.017299879, 0.063810711]],
    )  # fmt: skip
    hyper = [(0.070872647, 0.110901296), (0.069926803, 0.1122185), (0.070706708, 0.111118957)]
    close(canonical[0, :, 3:], [*hyper, (0.07122682, 0.110584828), (0.070503219, 0.111494247)])
    sdf = wave_head(x, identity, expression)
    close(sdf[0], [5.03258779e-06, -0.0474407922, 0.0306282896, 0.0458829232, 0.0287032695])
    d_x, d_identity, d_expression = torch.autograd.grad(sdf.sum(), (x, identity, expression))
    close(
        d_x[0],
        [[0.049198201, 0.166645, -0.102030558], [-0.012287633, -0.238910418, -0.311039927],
         [-0.517611203, 0.055173071, 0.014311902], [0.106762245, 0.538052854, -0.202828022],
         [0.106414579, -0.08068605, -0.070739587]],
    )  # fmt: skip
    close(
        d_identity[0, :8],
        [0.036640829, 0.054851179, 0.065637678, 0.067540426, -0.000508527, -0.000328102, -0.011935869, -0.014592451],
    )
    close(d_expression[0], [-0.00296886, -0.001847728, -0.000476515, 0.000959193, 0.002265078, 0.003264395])


def test_spec_neighbours_and_weights(wave_head, spec_codes):
    identity, expression, x = spec_codes
    canonical = wave_head.to_canonical(x, identity, expression)
    slots, weights = wave_head.identity.blend(canonical[..., :3], wave_head.identity.anchors(identity))
    assert slots[0, 0].tolist() == [32, 20, 26, 33, 4, 5, 27, 9, 39]
    close(
        weights[0, 0],
        [0.6323267865, 0.1419790327, 0.06181068109, 0.05754557112, 0.04318233549, 0.02785864798, 0.02467808555,
         0.01061853963, 3.439826967e-09],
    )  # fmt: skip
    close(
        weights[0, 3],
        [0.4672985090, 0.2348089591, 0.1260442944, 0.07247487589, 0.05282085967, 0.03647194957, 0.007491032526,
         0.002589442661, 2.680261232e-15],
    )  # fmt: skip


def test_blend_alone(wave_head):
    """Neighbours at given distances from the point; the global slot last."""
    distance = torch.tensor([0.05, 0.07, 0.08, 0.1, 0.12, 0.15, 0.18, 0.2], dtype=torch.float64)
    anchors = torch.full((1, 39, 3), 9.0, dtype=torch.float64)
    anchors[0, :8] = 0
    anchors[0, :8, 0] = distance
    slots, weights = wave_head.identity.blend(torch.zeros(1, 1, 3, dtype=torch.float64), anchors)
    assert slots[0, 0].tolist() == [*range(8), 39]
    close(
        weights[0, 0],
        [0.4142042729, 0.2563027249, 0.1898737286, 0.09242146574, 0.03833484466, 0.007586415888, 0.001047450656,
         0.0002290899094, 9.467440874e-50],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["mean_anchors.npz", "real_shapes.json", "small.npz", "small_nohyper.npz", "real.npz"])
def test_golden_fields(recomputed, shared, name):
    """Values, gradients and second-order gradients by the codes, both precisions, stored and recipe-made weights."""
    recomputed(CHECKS, shared / "golden" / "dphm" / f"A_{name}")
