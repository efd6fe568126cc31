"""tools/host_environment.py: real venv, real pip, tiny packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.wheels import make_wheel, offline

TOOL = Path(__file__).resolve().parents[2] / "tools" / "host_environment.py"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool, with a host of tiny packages. ``late`` goes beyond what ``early`` allows, as in Forge Neo."""
    spec = importlib.util.spec_from_file_location("host_environment", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    wheels = tmp_path / "wheels"
    for name, version, requires in (("early", "1.0", ("late<2",)), ("late", "1.0", ()), ("late", "2.0.0", ())):
        make_wheel(wheels, name, version, requires=requires)
    make_wheel(wheels, "pytest", "99.0", main="import sys; print('suite', sys.argv[1:])", requires=("late",))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(tool, "HOSTS", {"mine": (version, "early==1.0", "late==2.0"), "other": ("3.99", "")})
    monkeypatch.setattr(tool, "test_tools", lambda: ["pytest==99.0"])
    for name, value in offline(wheels).items():
        monkeypatch.setenv(name, value)
    return tool


def test_an_environment_is_made_once_and_runs_the_suite(tool, tmp_path, capfd):
    args = ["mine", "--env", str(tmp_path / "environment")]
    assert tool.main([*args, "-m", "not slow"]) == 0
    output = capfd.readouterr().out
    assert "Installing" in output and "'worksteal', '-m', 'not slow']" in output
    assert tool.main([*args, "--no-tests"]) == 0
    output = capfd.readouterr().out
    assert "Installing" not in output and "suite" not in output


def test_a_python_that_is_not_there_is_named(tool, tmp_path):
    with pytest.raises(SystemExit, match=r"Python 3\.99 was not found"):
        tool.main(["other", "--env", str(tmp_path / "environment")])
    assert not (tmp_path / "environment").exists()
