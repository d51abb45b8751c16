"""Published head models: what loads, what an imported file keeps, and what is refused by name."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from davatar.core.errors import DataError, MissingError
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.nphm import NPHMConfig
from davatar.headmodel.published import published_shapes
from davatar.headmodel.published_checkpoint import is_published, load_published, newest_checkpoint
from davatar.headmodel.weights import is_head_model, load_tables, save_published

CONFIG = NPHMConfig(
    global_size=4, local_size=2, member_width=6, member_layers=2, position_width=5, hyper=1, expression_size=6,
    compressed_size=3, deformation_width=8, deformation_layers=4,
)  # fmt: skip
YAML = "decoder: {id: {nneigh: 5, blend_std: 3.0, nsymm_pairs: 16}}\n"


def state() -> dict:
    """A checkpoint in the published layout, of widths that nobody published."""
    generator = torch.Generator().manual_seed(0)
    identity, deformation = (
        {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        for shapes in published_shapes(CONFIG)
    )
    tables = {
        "codebook.geo.embedding.weight": torch.randn(3, CONFIG.identity_size, generator=generator),
        "codebook.exp.embedding.weight": torch.randn(5, 6, generator=generator),
    }
    moments = {"state": {0: {"step": 3, "exp_avg": torch.zeros(3, 2)}}, "param_groups": [{"lr": 1e-3}]}
    return {
        "epoch": 6000,
        "id_decoder": identity,
        "ex_decoder": deformation,
        "optimizer": moments,
        "optimizer_lat": (moments,),
        "latent_codes": tables,
    }


@pytest.fixture
def folder(tmp_path):
    """A folder as published; `save` writes another checkpoint into it."""
    home = tmp_path / "nphm"
    (home / "checkpoints").mkdir(parents=True)
    (home / "configs.yaml").write_text(YAML)
    (home / "subject_train_index.json").write_text("[17, 28, 10028]")
    torch.save(state(), home / "checkpoints" / "checkpoint_epoch_6000.tar")
    return home


def damaged(folder, change):
    content = state()
    change(content)
    torch.save(content, folder / "checkpoints" / "checkpoint_epoch_6000.tar")
    return folder


def test_widths_rules_and_rows_are_read(folder):
    head = load_published(folder)
    expected = {**CONFIG.__dict__, "neighbours": 5, "blend_std": 3.0}
    assert head.network.config == NPHMConfig(**expected)
    assert head.about["subjects"] == [17, 28, 10028] and head.about["epoch"] == 6000
    assert head.identities.shape == (3, CONFIG.identity_size) and head.expressions.shape == (5, 6)


def test_an_imported_file_is_the_same_head(folder, tmp_path):
    head = load_published(folder)
    save_published(tmp_path / "head.safetensors", head)
    one, other = HeadModel.from_pretrained(folder), HeadModel.from_pretrained(tmp_path / "head.safetensors")
    assert one.hash == other.hash and one.network.config == other.network.config
    points = torch.rand(1, 9, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    codes = head.identities[1], head.expressions[2]
    assert torch.equal(one.sdf(points[0], *codes), other.sdf(points[0], *codes))
    tables = load_tables(tmp_path / "head.safetensors")
    assert torch.equal(tables["identity"], head.identities) and torch.equal(tables["expression"], head.expressions)
    assert other.describe()["identities"] == "3" and is_head_model(tmp_path / "head.safetensors")
    with pytest.raises(DataError, match="no morphable coefficients"):
        other.codes(np.zeros(100), np.zeros(53))


def test_the_newest_epoch_counts_and_names_do_not(folder, tmp_path):
    file = folder / "checkpoints" / "checkpoint_epoch_6000.tar"
    shutil.copy(file, folder / "checkpoints" / "checkpoint_epoch_900.tar")
    assert newest_checkpoint(folder) == file
    shutil.copy(file, tmp_path / "renamed.bin")
    assert is_published(tmp_path / "renamed.bin") and is_published(folder) and not is_published(tmp_path / "none")
    assert load_published(tmp_path / "renamed.bin").network.config.neighbours == 8  # nothing beside it says otherwise
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="checkpoint_epoch_<n>.tar"):
        load_published(tmp_path / "empty")


def test_colour_branches_are_ignored(folder):
    def change(content):
        content["id_decoder"]["aggr_app.0.weight"] = torch.zeros(2)
        content["id_decoder"]["communcation_bottleneck1.weight"] = torch.zeros(2)
        content["latent_codes"]["codebook.app.embedding.weight"] = torch.zeros(3, 2)

    assert load_published(damaged(folder, change)).network.config.member_width == 6


def test_every_missing_and_unexpected_key_is_named(folder):
    def change(content):
        del content["id_decoder"]["mlp_pos.2.bias"]
        del content["id_decoder"]["deepSDFensemble.layers.7.layers.2.weight"]
        content["ex_decoder"]["defDeepSDF.scale"] = torch.zeros(1)
        content["ex_decoder"]["defDeepSDF.lin1.bias"] = torch.zeros(9)

    with pytest.raises(DataError) as error:
        load_published(damaged(folder, change))
    said = str(error.value)
    for key in (
        "lacks mlp_pos.2.bias",
        "lacks deepSDFensemble.layers.7.layers.2.weight",
        "unexpected defDeepSDF.scale",
    ):
        assert key in said
    assert "defDeepSDF.lin1.bias as [9], expected [8]" in said and "checkpoint_epoch_6000.tar" in said


def _without(*keys):
    def change(content):
        for key in keys:
            part = content
            for name in key[:-1]:
                part = part[name]
            del part[key[-1]]

    return change


def _replaced(entry, key, value):
    def change(content):
        content[entry][key] = value

    return change


GEO, EXP = "codebook.geo.embedding.weight", "codebook.exp.embedding.weight"


@pytest.mark.parametrize(
    "change, says",
    [
        (_without(("ex_decoder",)), "no entry ex_decoder"),
        (_without(("latent_codes", EXP)), EXP),
        (_without(("id_decoder", "mlp_pos.4.weight")), "mlp_pos.4.weight"),
        (_replaced("latent_codes", "other", torch.zeros(1)), "unexpected other"),
        (_replaced("latent_codes", GEO, torch.zeros(3, 85)), "do not fit each other"),
        (_replaced("latent_codes", EXP, torch.zeros(5, 7)), "codes of 7 numbers"),
        (_replaced("id_decoder", "mlp_pos.0.bias", "words"), "mlp_pos.0.bias"),
        (_without(*(("id_decoder", key) for key in published_shapes(CONFIG)[0] if ".layers.23." in key)), "23 member"),
    ],
)
def test_what_does_not_fit_is_refused(folder, change, says):
    with pytest.raises(DataError, match="checkpoint_epoch_6000.tar") as error:
        load_published(damaged(folder, change))
    assert says in str(error.value)


class Hostile:
    """Unpickling it would write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("kind", ["archive", "entry", "plain pickle"])
def test_stored_code_never_runs(folder, tmp_path, kind):
    file, target = folder / "checkpoints" / "checkpoint_epoch_6000.tar", tmp_path / "ran"
    if kind == "archive":
        torch.save(Hostile(target), file)
    elif kind == "entry":
        torch.save(state() | {"optimizer": Hostile(target)}, file)
    else:
        file.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(DataError, match="checkpoint_epoch_6000.tar"):
        load_published(folder)
    assert not target.exists()


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_archives_are_named(folder, size):
    file = folder / "checkpoints" / "checkpoint_epoch_6000.tar"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match="checkpoint_epoch_6000.tar"):
        load_published(folder)


@pytest.mark.parametrize("name, text", [("configs.yaml", "decoder: 3"), ("subject_train_index.json", "{")])
def test_broken_companions_are_named(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=name):
        load_published(folder)


def test_import_and_show(cli, folder, tmp_path):
    out = tmp_path / "head.safetensors"
    done = cli("prior", "import", folder, "--out", out)
    assert done.code == 0 and "davatar prior show" in done.out, done.err
    for name in (out, folder, folder / "checkpoints" / "checkpoint_epoch_6000.tar"):
        shown = cli("prior", "show", name, "--json")
        document = json.loads(shown.out)
        assert (document["kind"], document["identity_size"], document["identities"]) == ("head model", 84, "3")
        refused = cli("prior", "show", name, "--evaluate")
        assert refused.code == 2 and "`davatar prior train nphm` made" in refused.err.replace("\n", " "), refused.err
        assert f"{name}: has no codes of the morphable heads" in refused.err
    refused = cli("prior", "import", folder, "--out", out, "--kind", "identity")
    assert refused.code == 2 and "--kind" in refused.err
    hostile = tmp_path / "hostile.tar"
    torch.save({"id_decoder": Hostile(tmp_path / "ran")}, hostile)
    assert cli("prior", "import", hostile, "--out", out).code == 3 and not (tmp_path / "ran").exists()
