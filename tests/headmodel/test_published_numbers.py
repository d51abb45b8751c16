"""The published numbers of the head model (spec dphm 10.1) and the golden fixtures made with upstream's modules."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from davatar.headmodel.nphm import NPHM, NPHMConfig
from davatar.headmodel.published import config_from_shapes, from_published

SIZES = {"G": 4, "L": 2, "W": 6, "K": 39, "P": 5, "H": 2, "E": 6, "C": 3, "V": 8}


def wave(n, a, b, s):
    return s * np.sin(a * np.arange(n) + b)


def spec_shapes():
    g, l_, w, k, p, h, e, c, v = (SIZES[name] for name in "GLWKPHECV")
    member = [g + l_ + 3 + h, w, w, w, w, 1]
    identity = {"mlp_pos.0": (p, g), "mlp_pos.2": (p, p), "mlp_pos.4": (3 * k, p)}
    for m in range(24):
        for layer in range(5):
            identity[f"deepSDFensemble.layers.{m}.layers.{2 * layer}"] = (member[layer + 1], member[layer])
    u = 3 + c + e
    deformation = {"compressor.0": (c, (l_ + 3) * k + l_ + g), "defDeepSDF.lin0": (v, u), "defDeepSDF.lin3": (v, v + u)}
    deformation |= {f"defDeepSDF.lin{n}": (v, v) for n in (1, 2, 4, 5)} | {"defDeepSDF.lin6": (3 + h, v)}
    return identity, deformation


def filled(layers):
    shapes = {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    out = {}
    for k, key in enumerate(sorted(shapes)):
        v = np.sin(0.37 * np.arange(np.prod(shapes[key])) + 1.3 * k + 0.5).reshape(shapes[key])
        scale = 1.2 / np.sqrt(np.prod(shapes[key][1:])) if v.ndim > 1 else 0.1
        out[key] = torch.from_numpy(scale * v * (0.2 if key in ("mlp_pos.4.weight", "defDeepSDF.lin6.weight") else 1))
    return out


@pytest.fixture(scope="module")
def spec_model() -> NPHM:
    identity, deformation = (filled(part) for part in spec_shapes())
    config = config_from_shapes(identity, deformation, identity_size=84)
    k, c = np.mgrid[:39, :3]
    return from_published(identity, deformation, config, torch.from_numpy(0.3 * np.sin(0.9 * k + 2.1 * c + 0.2)))


@pytest.fixture()
def spec_codes():
    identity = torch.from_numpy(wave(84, 0.7, 0.1, 0.3))[None].requires_grad_()
    expression = torch.from_numpy(wave(6, 1.1, 0.4, 0.5))[None].requires_grad_()
    return identity, expression, torch.from_numpy(wave(15, 0.83, 0.6, 0.25).reshape(1, 5, 3)).requires_grad_()


def close(found, wanted):
    np.testing.assert_allclose(found.detach().numpy(), np.array(wanted), rtol=1e-5, atol=1e-7)


def test_widths_follow_from_shapes():
    identity, deformation = (filled(part) for part in spec_shapes())
    assert config_from_shapes(identity, deformation, identity_size=84) == NPHMConfig(
        global_size=4, local_size=2, member_width=6, position_width=5, expression_size=6, compressed_size=3,
        deformation_width=8,
    )  # fmt: skip


def test_spec_vectors(spec_model, spec_codes):
    identity, expression, x = spec_codes
    anchors = spec_model.identity.anchors(identity)
    close(anchors[0, :2], [[-0.017076252, 0.203158746, -0.365501188], [0.112596564, -0.093312377, -0.283324733]])
    compressed = spec_model.deformation.compressor(torch.cat([identity, anchors.flatten(1)], 1))
    close(compressed[0], [-0.0594711190, -0.317022438, -0.204322059])
    canonical = spec_model.to_canonical(x, identity, expression)
    close(
        (canonical[..., :3] - x)[0, 3:],
        [[-0.014106451, 0.017587351, 0.063296724], [-0.014054949, 0.017299879, 0.063810711]],
    )
    close(canonical[0, :2, 3:], [[0.070872647, 0.110901296], [0.069926803, 0.1122185]])
    sdf = spec_model(x, identity, expression)
    close(sdf[0], [5.03258779e-06, -0.0474407922, 0.0306282896, 0.0458829232, 0.0287032695])
    d_x, d_identity, d_expression = torch.autograd.grad(sdf.sum(), (x, identity, expression))
    close(d_x[0, 0], [0.049198201, 0.166645, -0.102030558])
    close(d_x[0, 4], [0.106414579, -0.08068605, -0.070739587])
    close(
        d_identity[0, :8],
        [0.036640829, 0.054851179, 0.065637678, 0.067540426, -0.000508527, -0.000328102, -0.011935869, -0.014592451],
    )
    close(d_expression[0], [-0.00296886, -0.001847728, -0.000476515, 0.000959193, 0.002265078, 0.003264395])


def test_spec_neighbours_and_weights(spec_model, spec_codes):
    identity, expression, x = spec_codes
    canonical = spec_model.to_canonical(x, identity, expression)
    slots, weights = spec_model.identity.blend(canonical[..., :3], spec_model.identity.anchors(identity))
    assert slots[0, 0].tolist() == [32, 20, 26, 33, 4, 5, 27, 9, 39]
    close(
        weights[0, 3],
        [0.4672985090, 0.2348089591, 0.1260442944, 0.07247487589, 0.05282085967, 0.03647194957, 0.007491032526,
         0.002589442661, 2.680261232e-15],
    )  # fmt: skip


@pytest.fixture(scope="module", params=["A_small", "A_small_nohyper"])
def golden(request, shared):
    folder = shared / "golden" / "dphm"
    arrays = dict(np.load(folder / f"{request.param}.npz"))
    state = load_file(folder / f"{request.param}.safetensors")
    parts = [{k[9:]: v for k, v in state.items() if k.startswith(p)} for p in ("id_model.", "ex_model.")]
    about = json.loads(bytes(arrays["config"]))
    anchors = torch.from_numpy(np.load(folder / "A_mean_anchors.npz")["anchors_f64"])
    return arrays, parts, about, anchors


def build(golden, dtype):
    arrays, parts, about, anchors = golden
    identity, deformation = ({k: v.to(dtype) for k, v in part.items()} for part in parts)
    config = config_from_shapes(identity, deformation, arrays["geo"].shape[-1], about["K"], about.get("std", 4.0))
    return from_published(identity, deformation, config, anchors.to(dtype))


@pytest.mark.parametrize(("dtype", "suffix", "atol"), [(torch.float64, "f64", 1e-6), (torch.float32, "f32", 2e-5)])
def test_golden_field_and_gradients(golden, dtype, suffix, atol):
    arrays, model = golden[0], build(golden, dtype)
    x, identity, expression = (torch.from_numpy(arrays[k]).to(dtype) for k in ("queries", "geo", "exp"))
    x, identity, expression = x.requires_grad_(), identity[:, 0].requires_grad_(), expression[:, 0].requires_grad_()
    sdf = model(x, identity, expression)
    np.testing.assert_allclose(sdf.detach(), arrays[f"sdf_{suffix}"][..., 0], atol=atol)
    offsets = model.to_canonical(x, identity, expression)[..., :3] - x
    np.testing.assert_allclose(offsets.detach(), arrays[f"offsets_{suffix}"], atol=atol)
    np.testing.assert_allclose(model.identity.anchors(identity).detach(), arrays[f"anchors_{suffix}"], atol=atol)
    (gradient,) = torch.autograd.grad(sdf.sum(), x, create_graph=True)
    np.testing.assert_allclose(gradient.detach(), arrays[f"gradient_{suffix}"], atol=10 * atol)
    probed = (sdf * torch.from_numpy(arrays["probe"][..., 0]).to(dtype)).sum()
    first = torch.autograd.grad(probed, (identity, expression), retain_graph=True)
    for found, name in zip(first, ("geo", "exp"), strict=True):
        wanted = arrays[f"d_probe_{name}_{suffix}"][:, 0]
        np.testing.assert_allclose(found, wanted, atol=10 * atol * max(1, np.abs(wanted).max()))


def test_golden_second_order_and_blend(golden):
    arrays, model = golden[0], build(golden, torch.float64)
    x, identity, expression = (torch.from_numpy(arrays[k]).double() for k in ("queries", "geo", "exp"))
    x, identity, expression = x.requires_grad_(), identity[:, 0].requires_grad_(), expression[:, 0].requires_grad_()
    sdf = model(x, identity, expression)
    (gradient,) = torch.autograd.grad(sdf.sum(), x, create_graph=True)
    probed = (torch.from_numpy(arrays["probe"]) * gradient / gradient.norm(dim=-1, keepdim=True)).sum()
    second = torch.autograd.grad(probed, (identity, expression), retain_graph=True)
    absolute = torch.autograd.grad(sdf.abs().mean(), (identity, expression))
    for found, name in zip(second + absolute, ("cos_geo", "cos_exp", "abs_geo", "abs_exp"), strict=True):
        wanted = arrays[f"d_{name}_f64"][:, 0]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    canonical = torch.from_numpy(arrays["queries_can_f64"])
    np.testing.assert_allclose(
        model.identity(canonical, identity).detach(), arrays["sdf_canonical_f64"][..., 0], atol=1e-6
    )
    slots, weights = model.identity.blend(canonical[..., :3], model.identity.anchors(identity))
    assert np.array_equal(slots.numpy(), arrays["neighbours"])
    np.testing.assert_allclose(weights.detach(), arrays["blend"], atol=1e-6)
    neutral = model(x, identity, torch.zeros_like(expression))
    np.testing.assert_allclose(neutral.detach(), arrays["sdf_neutral_f64"][..., 0], atol=1e-6)
