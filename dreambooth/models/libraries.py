"""The libraries that a family needs, and whether they are installed. Nothing is imported to find out."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from dreambooth.errors import UserError

if TYPE_CHECKING:
    from dreambooth.models.family import Family


def missing_libraries(family: Family) -> dict[str, str]:
    """The requirements that are not met ("diffusers>=0.36"), each with the version that is installed, or ""."""
    from packaging.specifiers import SpecifierSet

    missing = {}
    for package, specifier in family.required_libraries.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = ""
        if not installed or not SpecifierSet(specifier).contains(installed, prereleases=True):
            missing[package + specifier] = installed
    return missing


def library_problem(family: Family) -> str:
    """What to install before models of this family can be used, in one line; "" if nothing is missing."""
    missing = missing_libraries(family)
    if not missing:
        return ""
    parts = [
        f"{needed} ({f'{installed} is' if installed else 'not'} installed)" for needed, installed in missing.items()
    ]
    quoted = " ".join(f'"{needed}"' for needed in missing)
    return f"{family.title} needs {' and '.join(parts)}: run pip install {quoted} in this Python, then restart."


def require_libraries(family: Family) -> None:
    """UserError with what to install if a library is missing or too old."""
    if problem := library_problem(family):
        raise UserError(problem)
