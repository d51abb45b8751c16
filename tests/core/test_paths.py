from __future__ import annotations

from pathlib import Path

import pytest

from davatar.core import paths
from davatar.core.errors import ConfigError


@pytest.fixture
def bare(own_places, monkeypatch) -> Path:
    """A home without any setting."""
    for name in paths.NAMES:
        monkeypatch.delenv(f"DAVATAR_{name.upper()}")
    yield own_places
    for name in paths.NAMES:
        paths.override(name, None)


def legacy_file(home: Path, text: str) -> Path:
    file = home / ".config" / "diffusion-avatars" / ".env"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_each_layer_wins_over_the_next(bare, monkeypatch):
    default = paths.place("models")
    assert default.origin == "default" and default.path.name == "models"

    config = paths.user_config_file()
    config.parent.mkdir(parents=True)
    config.write_text("paths:\n  models: /config/models\n")
    assert paths.place("models") == paths.Place("models", Path("/config/models"), str(config))

    file = legacy_file(bare, "DIFFUSION_AVATARS_MODELS_PATH=/dotenv/models\n")
    assert paths.models_dir() == Path("/dotenv/models")
    assert str(file) in paths.place("models").origin

    monkeypatch.setenv("DIFFUSION_AVATARS_MODELS_PATH", "/legacy/models")
    assert paths.place("models").origin == "DIFFUSION_AVATARS_MODELS_PATH"

    monkeypatch.setenv("DAVATAR_MODELS", "/new/models")
    assert paths.place("models") == paths.Place("models", Path("/new/models"), "DAVATAR_MODELS")

    paths.override("models", "/flag/models")
    assert paths.place("models") == paths.Place("models", Path("/flag/models"), "command line")


def test_dotenv_lines_are_read_as_shells_do(bare):
    legacy_file(
        bare,
        "# where things are\n\nexport DIFFUSION_AVATARS_DATA_PATH='/with space/data' # old disk\n"
        'DIFFUSION_AVATARS_MODELS_PATH="~/models"\nDIFFUSION_AVATARS_RENDERS_PATH = /r#1 # comment\nnonsense\n',
    )
    assert paths.data_dir() == Path("/with space/data")
    assert paths.models_dir() == bare / "models"
    assert paths.renders_dir() == Path("/r#1")


def test_a_misspelt_key_of_the_user_config_is_an_error(bare, monkeypatch, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("paths:\n  model: /x\n")
    monkeypatch.setenv("DAVATAR_CONFIG", str(file))
    with pytest.raises(ConfigError, match="did you mean 'paths.models'"):
        paths.models_dir()


def test_nothing_is_made_by_asking(bare):
    assert not any(place.path.exists() for place in paths.places())
