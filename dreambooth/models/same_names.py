"""The name map of components whose files have the names of their modules."""

from __future__ import annotations

from collections.abc import Callable

from dreambooth.models.transforms import IDENTITY, Transform


class SameNames:
    """Of a component whose files have the names of its module, as far as ``is_known`` says."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known

    def to_modules(self, name: str) -> tuple[str, ...]:
        return (name,) if self._is_known(name) else ()

    def to_original(self, name: str) -> str | None:
        return name if self._is_known(name) else None

    def transform(self, name: str) -> Transform:
        return IDENTITY
