import dataclasses
import json

import pytest

from davatar.core.errors import DataError, MissingError
from davatar.dataset import layout
from davatar.dataset.splits import SplitSettings, carve


def test_golden_configurations_are_brought_up_to_date(shared):
    cases = json.loads((shared / "golden/diffusion_avatars/C_legacy_configs.json").read_text())
    parsers = {"RenderingDataConfig": layout.parse_config, "MeshProviderConfig": layout.parse_mesh_config}
    checked = [case for case in cases if case["cls"] in parsers]
    assert len(checked) >= 5
    for case in checked:
        parsed = json.loads(json.dumps(dataclasses.asdict(parsers[case["cls"]](case["input"]))))
        assert parsed == case["output"], case["case"]


def test_golden_splits(shared):
    golden = shared / "golden/diffusion_avatars"
    folder = golden / "data/rendering_data/v1.3-ID-55-nphm"
    settings = SplitSettings(hold_out_cameras=(layout.FRONTAL_SERIAL,), predefined=True)
    found = carve(layout.read_config(folder), layout.read_stats(folder), settings)
    expected = json.loads((golden / "C_splits.json").read_text())
    for theirs, ours in (
        ("TRAIN", "train"),
        ("VALID_HOLD_OUT_VIEW", "hold-out-view"),
        ("VALID_HOLD_OUT_SEQ", "hold-out-sequence"),
    ):
        assert [list(key) for key in found[ours]] == expected[theirs]


def small(sequences=("a", "b", "c"), steps=20):
    config = layout.DataConfig(sequences=[(1, s) for s in sequences], serials=["x", "y", "z"])
    return config, layout.Stats.of({(1, s): list(range(steps)) for s in sequences}, 3)


def test_every_sample_is_in_one_split_only():
    config, stats = small()
    settings = SplitSettings(
        enabled=("train", "hold-out-view", "hold-out-expression", "hold-out-sequence"),
        ratio=0.75,
        hold_out_cameras=("y",),
        hold_out_sequences=("b",),
        block=5,
    )
    splits = carve(config, stats, settings)
    everything = [key for keys in splits.values() for key in keys]
    assert len(everything) == len(set(everything)) == 3 * 20 * 3
    held = sorted({(key.sequence, key.timestep) for key in splits["hold-out-expression"]})
    assert len(held) == 2 * 5 and all((s, t // 5 * 5) in held for s, t in held)  # whole runs of five neighbours
    assert {key.serial for key in splits["train"]} == {"x", "z"}


def test_unknown_hold_outs_are_named():
    config, stats = small()
    with pytest.raises(DataError, match="'laugh'.*there are a, b, c"):
        carve(config, stats, SplitSettings(hold_out_sequences=("laugh",), hold_out_cameras=()))
    with pytest.raises(DataError, match="serial 7.*there are x, y, z"):
        carve(config, stats, SplitSettings(hold_out_sequences=(), hold_out_cameras=("7",)))


def test_versions_resolve_and_grow(tmp_path):
    for name in ("v1.3-ID-55-nphm", "v1.10-other", "v2-two", "notes"):
        (tmp_path / name).mkdir()
    for text in ("v1.3", "1.3", "v1.3-ID-55-nphm"):
        assert layout.resolve_version(text, tmp_path).name == "v1.3-ID-55-nphm"
    assert layout.claim_version(tmp_path, "my head").name == "v1.11-my-head"
    assert layout.claim_version(tmp_path / "new", None).name == "v0.1"
    with pytest.raises(MissingError, match="v1.3-ID-55-nphm"):
        layout.resolve_version("v7", tmp_path)
    (tmp_path / "v1.3-again").mkdir()
    with pytest.raises(MissingError, match="several"):
        layout.resolve_version("v1.3", tmp_path)


def test_an_unfinished_data_set_says_so(tmp_path):
    with pytest.raises(DataError, match="not finished"):
        layout.read_stats(tmp_path)
    (tmp_path / "config.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match="sequences and serials"):
        layout.read_config(tmp_path)
