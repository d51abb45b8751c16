from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest

from davatar.core import templates
from davatar.core.errors import UsageError


def test_the_templates_are_found_wherever_davatar_is_installed():
    assert templates.plugin_kinds() == ["capture", "metric", "rasterizer", "scan"]
    assert (templates.templates_folder() / "plugins" / "metric" / "pyproject.toml").is_file()


def test_new_plugins_pass_their_own_tests_before_anything_is_edited(tmp_path):
    """What pip would do, without pip: sources and entry points on the path; one process runs all the tests."""
    sources = []
    for kind in templates.plugin_kinds():
        name = f"blue-{kind}9"
        folder = templates.new_plugin(kind, name, tmp_path)
        assert folder == tmp_path / f"davatar-{name}"
        texts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
        assert not [path for path, text in texts.items() if f"my-{kind}" in path + text or f"my_{kind}" in path + text]
        project = tomllib.loads(texts["pyproject.toml"])["project"]
        ((group, entries),) = project["entry-points"].items()
        metadata = folder / "src" / f"davatar_blue_{kind}9-0.1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {entries[name]}\n")
        sources.append(str(folder / "src"))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sources)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{2 * len(sources)} passed" in ran.stdout


@pytest.mark.parametrize("name", ["My-Metric", "my_metric", "9lives", "a--b", "../up", ""])
def test_a_name_that_no_package_could_have_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="cannot name a plugin"):
        templates.new_plugin("metric", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "davatar-mine").mkdir()
    with pytest.raises(UsageError, match="davatar-mine: exists already"):
        templates.new_plugin("metric", "mine", tmp_path)
    with pytest.raises(UsageError, match="there are capture, metric, rasterizer, scan"):
        templates.new_plugin("meter", "mine", tmp_path)
