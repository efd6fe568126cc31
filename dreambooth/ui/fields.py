"""Controls drawn from the settings' declarations: nothing here knows any setting by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from dreambooth.settings import Setting
from dreambooth.settings.declare import by_group
from dreambooth.ui.gradio_versions import control

MOST_POSITIONS = 1000  # a slider with more of them can't be set by hand


class Fields:
    """The controls of some settings, in the order of their declarations.

    ``prefix`` begins their elem_ids (``db_`` gives ``db_resolution``). ``offered``: of some settings, the choices that
    work on this machine.
    """

    def __init__(
        self, declared: Mapping[str, Setting], prefix: str = "db_", offered: Mapping[str, list[str]] | None = None
    ) -> None:
        self.declared, self.prefix, self.offered = declared, prefix, dict(offered or {})
        self.drawn: dict[str, Any] = {}

    def draw(self, key: str, **options: Any) -> Any:
        """The control for one setting, put where the layout stands now."""
        if key in self.offered:
            options = {"choices": self.offered[key], **options}
        self.drawn[key] = field(self.declared[key], self.prefix, **options)
        return self.drawn[key]

    def draw_groups(self, tab: str, first_open: int = 1) -> None:
        """All settings of a tab that are not drawn yet, an accordion per group; the rarely needed ones folded."""
        rest = [s for s in self.declared.values() if s.tab == tab and s.key not in self.drawn]
        for number, (group, settings) in enumerate(by_group(rest)):
            with gr.Accordion(group, open=number < first_open, elem_id=f"{self.prefix}group_{slug(tab, group)}"):
                self._draw_all([s for s in settings if not s.advanced])
                advanced = [s for s in settings if s.advanced]
                if advanced:
                    with gr.Accordion("Advanced", open=False):
                        self._draw_all(advanced)

    def draw_all(self) -> None:
        """Everything that is declared, one after the other."""
        self._draw_all(list(self.declared.values()))

    def _draw_all(self, settings: list[Setting]) -> None:
        for setting in settings:
            self.draw(setting.key)

    def components(self) -> list[Any]:
        """The controls in the order of the declarations, whatever the order on the page."""
        return [self.drawn[key] for key in self.declared]

    def values(self, given: list[Any]) -> dict[str, Any]:
        """What the page sent for :meth:`components`, by name."""
        return dict(zip(self.declared, given, strict=True))

    def listed(self) -> list[tuple[str, Any]]:
        """(which of the host's files it offers, the control)."""
        return [(setting.listed, self.drawn[key]) for key, setting in self.declared.items() if setting.listed]

    def secrets(self) -> list[Any]:
        """The controls whose values are to be kept nowhere."""
        return [self.drawn[key] for key, setting in self.declared.items() if setting.secret]

    def update(self, key: str, value: Any) -> Any:
        """``value`` into the control, also one that is not offered here: it was saved somewhere else."""
        offered = self.offered.get(key)
        if offered is None:
            return gr.update(value=shown(self.declared[key], value))
        return gr.update(value=value, choices=offered if value in offered else [*offered, value])

    def deciders(self) -> list[str]:
        """The settings that others depend on."""
        names = set().union(*(setting.depends_on() for setting in self.declared.values()))
        return [key for key in self.declared if key in names]

    def unusable(self, deciding: list[Any]) -> list[str]:
        """The elem_ids of controls without effect, given the values of :meth:`deciders`."""
        values = {key: setting.default for key, setting in self.declared.items()}
        for key, value in zip(self.deciders(), deciding, strict=True):
            values[key] = setting_or_default(self.declared[key], value)
        return [self.prefix + key for key, setting in self.declared.items() if not setting.applies_to(values)]

    def elem_ids(self) -> list[str]:
        return [self.prefix + key for key in self.declared]


def field(setting: Setting, prefix: str, **options: Any) -> Any:
    """One control for one setting."""
    common = {"label": setting.label, "info": setting.help, "value": shown(setting, setting.default)} | options
    common["elem_id"] = prefix + setting.key
    if setting.type is bool:
        return control(gr.Checkbox, **common)
    if setting.choices:
        return control(gr.Dropdown, **{"choices": [shown(setting, choice) for choice in setting.choices], **common})
    if setting.listed:  # filled by the page: the list changes while it is open
        return control(gr.Dropdown, choices=[], allow_custom_value=True, **common)
    if setting.secret:
        return control(gr.Textbox, type="password", max_lines=1, **common)
    if setting.type is str:
        return control(gr.Textbox, max_lines=4, **common)
    low, high = setting.low, setting.high
    if setting.step and low is not None and high is not None and (high - low) / setting.step <= MOST_POSITIONS:
        return control(gr.Slider, minimum=setting.low, maximum=setting.high, step=setting.step, **common)
    return control(gr.Number, precision=0 if setting.type is int else None, **common)


def shown(setting: Setting, value: Any) -> Any:
    """As the setting's control holds it: among choices as text, because Gradio 3's list shows no number."""
    return str(value) if setting.choices else value


def slug(*words: str) -> str:
    return "_".join(words).lower().replace(" ", "_")


def setting_or_default(setting: Setting, value: Any) -> Any:
    try:
        return setting.parse(value)
    except ValueError:
        return setting.default
