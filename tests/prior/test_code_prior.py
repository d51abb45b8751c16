import numpy as np
import pytest
import torch

from davatar.core.errors import ConfigError, DataError, MissingError, UsageError
from davatar.diffusion.schedule import cosine_schedule
from davatar.headmodel.head_model import HeadModel
from davatar.prior.checkpoint import read_prior, shipped, write_prior
from davatar.prior.code_prior import CodePrior
from davatar.prior.mocap import load_mocap
from davatar.prior.network import NetworkConfig, build_network
from davatar.prior.normalization import LinearNormalization, RangeNormalization, normalization_from_arrays

CONFIG = NetworkConfig("mlp", width=16, blocks=1)
ROWS = np.random.default_rng(0).normal(size=(4, 9))


@pytest.fixture
def prior():
    """A plane of four coefficients in codes of nine numbers, standard normal there."""
    network = build_network(CONFIG, 4, seed=0).requires_grad_(False)
    plane = LinearNormalization(np.arange(9.0), ROWS)
    return CodePrior("identity", network, cosine_schedule(100), "v_prediction", plane, {"licence": "MIT"})


def test_samples_of_a_standard_normal_plane_lie_on_it_and_spread(prior):
    codes = prior.sample(4000, steps=30, seed=1)
    assert codes.shape == (4000, 9)
    whitened = prior.normalise(codes)
    assert torch.allclose(prior.denormalise(whitened), codes, atol=1e-4)
    assert whitened.mean(dim=0).abs().max() < 0.06
    assert (torch.cov(whitened.T) - torch.eye(4)).abs().max() < 0.12


@pytest.mark.parametrize("sampler", ["dpm", "unipc", "ddim", "ancestral"])
def test_same_seed_same_codes(prior, sampler):
    one, two = (prior.sample(3, steps=5, seed=4, sampler=sampler) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, prior.sample(3, steps=5, seed=5, sampler=sampler))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_the_library_s_scheduler_draws_the_same_codes(prior, name):
    theirs = prior.sample(3, steps=20, seed=4, sampler=prior.scheduler(name))
    assert torch.allclose(theirs, prior.sample(3, steps=20, seed=4, sampler=name), atol=2e-3)


def test_a_diverged_network_is_named(prior):
    next(prior.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(DataError, match="identity prior makes codes that are not finite"):
        prior.sample(2, steps=5)


def test_noise_is_given_seeded_or_drawn(prior):
    codes = torch.zeros(2, 9)
    drawn, again = (prior.guidance(codes, 50, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    given = prior.guidance(codes, 50, noise=prior.noise(2, seed=3))
    assert torch.equal(drawn[1], again[1]) and torch.equal(drawn[1], given[1])
    assert torch.equal(prior.sample(2, steps=5, seed=3), prior.sample(2, steps=5, start=prior.noise(2, seed=3)))
    with pytest.raises(DataError, match="noise has shape"):
        prior.sample(2, steps=5, start=torch.zeros(3, 4))


def test_half_a_file_holds_the_transform_of_coefficients_exactly(tmp_path):
    code_of = ROWS.astype(np.float16).astype(np.float64)
    plane = LinearNormalization.from_coefficients(code_of, np.zeros(9), np.ones(4), np.array([0.3, 1, 2, 5.1]))
    assert plane.arrays()["from_coefficients"].dtype == np.float16
    again = normalization_from_arrays(plane.arrays(), 9)
    assert np.array_equal(again.from_whitened, plane.from_whitened) and np.array_equal(again.mean, plane.mean)
    with pytest.raises(DataError, match="holds no normalisation"):
        normalization_from_arrays({"mean": plane.mean}, 9)


def test_file_returns_the_prior_it_was_given(prior, tmp_path):
    write_prior(tmp_path / "p.safetensors", prior, CONFIG, "cosine")
    again = read_prior(tmp_path / "p.safetensors")
    assert torch.equal(prior.sample(2, steps=5), again.sample(2, steps=5))
    assert (again.kind, again.about, again.prediction) == (prior.kind, prior.about, prior.prediction)


@pytest.mark.parametrize("damage", ["truncated", "text", "other safetensors", "no range", "network of another size"])
def test_damaged_files_are_named(prior, tmp_path, damage):
    path = tmp_path / "p.safetensors"
    write_prior(path, prior, CONFIG, "cosine")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "other safetensors":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(2)}, path)
    elif damage == "no range":
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        kept = {key: value for key, value in load_file(path).items() if key.startswith("network.")}
        save_file(kept, path, metadata)
    else:
        write_prior(path, prior, NetworkConfig("mlp", width=32, blocks=1), "cosine")
    with pytest.raises(DataError, match="p.safetensors"):
        CodePrior.from_pretrained(path)


def test_unknown_name_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("DAVATAR_MODELS", str(tmp_path))
    with pytest.raises(MissingError, match="open-expression"):
        CodePrior.from_pretrained("closed-expression")


def test_bad_codes_are_refused(prior):
    with pytest.raises(DataError, match=r"\[2, 5\].*\[B, 9\]"):
        prior.guidance(torch.zeros(2, 5), 50)
    with pytest.raises(DataError, match="not finite in row 1"):
        prior.guidance(torch.tensor([[0.0] * 9, [0.0] * 8 + [float("nan")]]), 50)
    with pytest.raises(DataError, match="leave the schedule"):
        prior.guidance(torch.zeros(2, 9), 100)
    with pytest.raises(DataError, match="noise has shape"):
        prior.guidance(torch.zeros(2, 9), 50, noise=torch.zeros(2, 9))
    with pytest.raises(UsageError, match="guidance mode"):
        prior.guidance(torch.zeros(2, 9), 50, mode="dream")
    with pytest.raises(UsageError, match="0 samples"):
        prior.sample(0)
    with pytest.raises(ConfigError, match="sampler"):
        prior.sample(1, steps=5, sampler="magic")


def test_frames_are_batched_without_mixing(prior):
    generator = torch.Generator().manual_seed(0)
    codes, noise = torch.randn(3, 9, generator=generator), torch.randn(3, 4, generator=generator)
    value, gradient = prior.guidance(codes, 50, noise)
    single = [prior.guidance(codes[k : k + 1], 50, noise[k : k + 1]) for k in range(3)]
    assert value.item() == pytest.approx(np.mean([v.item() for v, _ in single]), rel=1e-5)
    assert torch.allclose(3 * gradient, torch.cat([g for _, g in single]), atol=1e-5)


def test_normalisations_without_extent_are_refused():
    with pytest.raises(DataError, match="is empty"):
        RangeNormalization(1.0, 1.0, 5)
    with pytest.raises(DataError, match="not finite"):
        LinearNormalization(np.zeros(3), np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="does not fit"):
        LinearNormalization(np.zeros(3), np.zeros((2, 4)))


@pytest.mark.parametrize(
    "name, code_size, kind",
    [("open-identity", 1344, "identity"), ("open-expression", 53, "expression"), ("open-joint", 1397, "joint")],
)
def test_shipped_priors(name, code_size, kind):
    prior = CodePrior.from_pretrained(name)
    assert name in shipped() and prior.kind == kind and prior.code_size == code_size
    codes = prior.sample(4, steps=8, seed=0)
    assert codes.shape == (4, code_size) and torch.isfinite(codes).all()
    value, gradient = prior.guidance(codes, 500, torch.zeros(4, prior.normalization.size))
    assert torch.isfinite(gradient).all() and value >= 0


def test_shipped_transforms_are_those_of_the_open_head_model():
    rng = np.random.default_rng(0)
    identity, expression = HeadModel.from_pretrained("open").codes(rng.normal(size=(5, 100)), rng.random((5, 53)))
    both = torch.cat([identity, expression], dim=1)
    for name, codes in (("open-identity", identity), ("open-expression", expression), ("open-joint", both)):
        prior = CodePrior.from_pretrained(name)
        assert torch.allclose(prior.denormalise(prior.normalise(codes)), codes, atol=1e-3)


def test_shipped_expression_prior_pulls_towards_expressions():
    """Captured frames cost less than the same weights shuffled between frames, shape by shape."""
    prior = CodePrior.from_pretrained("open-expression")
    frames = torch.as_tensor(load_mocap().evaluation()[::20])
    _, codes = HeadModel.from_pretrained("open").codes(np.zeros((len(frames), 100)), frames.numpy())
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([column[torch.randperm(len(codes), generator=generator)] for column in codes.T], dim=1)
    noise = torch.randn(len(codes), prior.normalization.size, generator=generator)
    real, _ = prior.guidance(codes, 300, noise)
    mixed, _ = prior.guidance(shuffled, 300, noise)
    assert real < mixed
