"""The names that `davatar` offers to Python."""

from __future__ import annotations

import subprocess
import sys

import pytest

import davatar


@pytest.mark.parametrize("name", davatar.__all__)
def test_every_public_name_is_there_and_explained(name):
    value = getattr(davatar, name)
    assert name in dir(davatar)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'davatar' has no attribute 'trak'"):
        davatar.trak  # noqa: B018


def test_importing_the_package_imports_none_of_its_parts():
    code = "import sys, davatar; print([m for m in sys.modules if m.startswith('davatar.') or m in ('numpy', 'torch')])"
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
