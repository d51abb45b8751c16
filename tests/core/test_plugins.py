"""Plugins as they are installed: metadata in a folder on the import path, code beside it."""

from __future__ import annotations

import sys

import pytest

from davatar.core import plugins
from davatar.core.errors import MissingError, UsageError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install("one", "davatar.metrics", {"name": "module:attribute"}, {"module": "source"})`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str, group: str, entries: dict[str, str], modules: dict[str, str]) -> None:
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


def test_listing_imports_nothing(install):
    install("davatar-toy", "davatar.metrics", {"toy": "toy_listed:Toy"}, {"toy_listed": "raise SystemExit('imported')"})
    assert "toy" in plugins.names("davatar.metrics")
    (found,) = [plugin for plugin in plugins.listed("davatar.metrics") if plugin.name == "toy"]
    assert (found.target, found.distribution) == ("toy_listed:Toy", "davatar-toy 1.0")
    assert "toy_listed" not in sys.modules


def test_built_in_and_foreign_plugins_load_by_the_same_door(install):
    install("davatar-toy", "davatar.metrics", {"toy": "toy_loaded:Toy"}, {"toy_loaded": "class Toy: name = 'toy'"})
    assert plugins.load("davatar.metrics", "toy")().name == "toy"
    assert plugins.load("davatar.metrics", "psnr")().name == "psnr"


def test_a_broken_plugin_is_reported_and_breaks_nothing_else(install):
    install("davatar-bad", "davatar.metrics", {"bad": "toy_bad:Toy"}, {"toy_bad": "import no_such_package"})
    with pytest.raises(MissingError, match="'bad' of davatar-bad 1.0 does not import: .*no_such_package") as error:
        plugins.load("davatar.metrics", "bad")
    assert error.value.exit_code == 4 and "reinstall or uninstall davatar-bad" in str(error.value)
    found = plugins.broken("davatar.metrics")
    assert [broken.plugin.name for broken in found] == ["bad"]
    assert plugins.load("davatar.metrics", "psnr")


def test_two_plugins_of_one_name_are_an_error_that_names_both(install):
    install("davatar-one", "davatar.metrics", {"same": "toy_one:A"}, {"toy_one": "A = 1"})
    install("davatar-two", "davatar.metrics", {"same": "toy_two:A"}, {"toy_two": "A = 2"})
    with pytest.raises(UsageError, match="'same' of davatar.metrics is brought by") as error:
        plugins.load("davatar.metrics", "same")
    assert "davatar-one 1.0" in str(error.value) and "davatar-two 1.0" in str(error.value)
    assert [plugin.name for plugin in plugins.listed("davatar.metrics")].count("same") == 2


def test_unknown_names_and_groups_get_the_nearest_one():
    with pytest.raises(UsageError, match=r"no plugin 'psn' .*did you mean 'psnr'\?"):
        plugins.load("davatar.metrics", "psn")
    with pytest.raises(UsageError, match="no plugin group is called 'davatar.metric'"):
        plugins.names("davatar.metric")


def test_every_built_in_plugin_imports():
    assert [broken for broken in plugins.broken() if broken.plugin.distribution.startswith("davatar ")] == []
