"""What can be chosen when a model is created from a checkpoint, declared once as all settings are."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared, setting


@dataclass(frozen=True, kw_only=True)
class Creation:
    """Options of Create. What the file itself tells (its family, its prediction type) is not asked."""

    # fmt: off
    extract_ema: bool = setting(False, "Create", "Extract EMA weights",
        "Extract the checkpoint's averaged weights too, where it carries them: Use EMA goes on from them.")
    half: bool = setting(False, "Create", "Half precision",
        "Keep the working copy in half precision: half the disk space, a little less exact.")
    # fmt: on


CREATION = declared(Creation)
