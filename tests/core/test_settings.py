from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from davatar.core import settings
from davatar.core.errors import ConfigError


@dataclass(frozen=True)
class Network:
    channels: int = 16
    kind: Literal["plain", "wide"] = "plain"
    sizes: tuple[int, ...] = (8, 16)

    def __post_init__(self):
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}, expected at least 1")


@dataclass(frozen=True)
class Budget:
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        if self.steps is None and self.seconds is None:
            object.__setattr__(self, "seconds", 300.0)


@dataclass(frozen=True)
class Settings:
    rate: float = 1e-3
    name: str = "anna"
    out: Path | None = None
    network: Network = field(default_factory=lambda: Network(channels=32))
    budget: Budget = field(default_factory=Budget)


def resolve(**layers):
    return settings.resolve(Settings, component="toy", environ=layers.pop("environ", {}), **layers)


def test_layers_win_in_order_and_leave_their_origin(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("rate: 2\nname: file\nnetwork:\n  channels: 3\n  kind: wide\n  sizes: [1, 2, 3]\n")
    environ = {"DAVATAR_TOY_NETWORK__CHANNELS": "4", "DAVATAR_TOY_NAME": "env", "DAVATAR_DATA": "/elsewhere"}
    sets = ["network.kind=plain", "name=set"]
    found = resolve(config_file=file, environ=environ, sets=sets, flags={"name": "flag", "out": None})
    assert found.value == Settings(2.0, "flag", None, Network(4, "plain", (1, 2, 3)))
    assert found.origins == {
        "rate": str(file),
        "name": "--name",
        "out": "default",
        "network.channels": "DAVATAR_TOY_NETWORK__CHANNELS",
        "network.kind": "--set",
        "network.sizes": str(file),
        "budget.steps": "default",
        "budget.seconds": "default",
    }


def test_a_part_set_alone_keeps_the_defaults_of_its_owner():
    assert resolve(sets=["network.kind=wide"]).value.network == Network(channels=32, kind="wide")


def test_derived_values_follow_the_given_ones():
    assert resolve(sets=["budget.steps=7"]).value.budget == Budget(steps=7, seconds=None)


@pytest.mark.parametrize("layer", ["file", "environment", "set", "flag"])
def test_an_unknown_key_names_the_nearest_one_and_its_layer(layer, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("network:\n  chanels: 3\n")
    layers = {
        "file": ({"config_file": file}, str(file)),
        "environment": ({"environ": {"DAVATAR_TOY_NETWORK__CHANELS": "3"}}, "DAVATAR_TOY_NETWORK__CHANELS"),
        "set": ({"sets": ["network.chanels=3"]}, "--set"),
        "flag": ({"flags": {"network.chanels": 3}}, "--chanels"),
    }
    given_layer, origin = layers[layer]
    with pytest.raises(ConfigError) as error:
        resolve(**given_layer)
    assert str(error.value) == (
        f"no setting is called 'network.chanels' (from {origin}) (did you mean 'network.channels'?)"
    )
    assert error.value.exit_code == 2


def test_a_key_without_its_path_is_guessed():
    with pytest.raises(ConfigError, match=r"did you mean 'network.sizes'\?"):
        resolve(sets=["sizes=3"])


def test_a_group_is_no_value():
    with pytest.raises(ConfigError, match="set its parts: network.channels, network.kind, network.sizes"):
        resolve(sets=["network=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network.channels=many", "network.channels is 'many', expected a valid integer"),
        ("network.channels=2.5", "network.channels is 2.5, expected a valid integer"),
        ("rate=yes", "rate is True, expected a number"),
        ("network.kind=narrow", "network.kind is 'narrow', expected 'plain' or 'wide'"),
        ("network.sizes=[1, x]", "network.sizes is .*, expected a valid integer"),
        ("network.channels=0", "channels is 0, expected at least 1"),
        ("rate", "--set rate has no '='"),
    ],
)
def test_a_wrong_value_says_what_was_expected(text, message):
    with pytest.raises(ConfigError, match=message):
        resolve(sets=[text])


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("rate=1e-4", "rate", 1e-4),
        ("name=123", "name", "123"),
        ("name=no", "name", "no"),
        ("name=a=b", "name", "a=b"),
        ("name=[", "name", "["),
        ("out=/some/where", "out", Path("/some/where")),
        ("out=null", "out", None),
    ],
)
def test_typed_text_becomes_what_the_field_wants(text, key, value):
    assert getattr(resolve(sets=[text]).value, key) == value


def test_broken_and_missing_files_are_named(tmp_path):
    broken, listing = tmp_path / "broken.yaml", tmp_path / "list.yaml"
    broken.write_text("a: [1,")
    listing.write_text("- 1")
    for file, text in ((broken, "not readable YAML"), (listing, "holds a list"), (tmp_path / "none.yaml", "No such")):
        with pytest.raises(ConfigError, match=text) as error:
            resolve(config_file=file)
        assert str(error.value).startswith(str(file))
    with pytest.raises(ConfigError, match="toy has no preset 'tny'"):
        resolve(preset="tny")


@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    out=st.none() | st.just(Path("/some/where: # odd")),
    sizes=st.lists(st.integers(-(10**9), 10**9), max_size=5).map(tuple),
)
def test_config_yaml_reads_back_as_the_same_settings(rate, name, out, sizes, tmp_path_factory):
    value = replace(Settings(rate, name, out), network=Network(5, "wide", sizes))
    text = settings.to_yaml(settings.Resolved(value, {key: "preset x" for key in settings.fields_of(Settings)}))
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(text, encoding="utf-8")
    assert resolve(config_file=file).value == value


def test_config_yaml_tells_origins():
    text = settings.to_yaml(resolve(sets=["network.channels=3"]))
    assert "network:\n  channels: 3  # --set\n  kind: plain  # default\n  sizes: [8, 16]  # default\n" in text


def test_every_shipped_preset_fits_its_settings():
    """A key that no field has would raise, and so would a folder that belongs to no component."""
    from davatar.avatar.settings import AvatarSettings
    from davatar.checks.demo_settings import DemoSettings
    from davatar.headmodel.recipes import settings_class
    from davatar.prior.settings import PriorSettings
    from davatar.tracking.settings import TrackSettings

    owners = {
        "avatar": AvatarSettings,
        "demo": DemoSettings,
        "nphm": None,  # a preset says which training it is for
        "prior": PriorSettings,
        "tracking": TrackSettings,
    }
    folders = (files("davatar.assets") / "presets").iterdir()
    assert owners.keys() == {folder.name for folder in folders if folder.is_dir()}
    for component, cls in owners.items():
        for preset in settings.presets(component):
            found = settings.resolve(cls or settings_class(preset, None, ()), preset, component=component, environ={})
            assert f"preset {preset}" in found.origins.values()


def test_a_key_like_no_other_is_told_the_groups_not_every_setting():
    with pytest.raises(ConfigError, match=r"there are .*network\.…") as caught:
        resolve(sets=["xyzzy.q=3"])
    assert "network.channels" not in str(caught.value)
