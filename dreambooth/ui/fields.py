"""Controls for settings, created from their declarations. No setting is known by name here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from dreambooth.settings import Setting
from dreambooth.settings.declare import by_group
from dreambooth.ui.gradio_versions import control
from dreambooth.ui.links import group_id

if TYPE_CHECKING:
    from dreambooth.models.capabilities import Capabilities

MAX_SLIDER_POSITIONS = 1000  # a slider with more can't be set precisely with the mouse


class Fields:
    """The controls of some settings, in the order of their declarations.

    ``prefix``: of the controls' elem_ids ("db_" gives "db_resolution"). ``missing``: by setting and choice, what a
    choice needs that this machine lacks. ``limited``: settings that some model families can't have.
    """

    def __init__(
        self,
        declared: Mapping[str, Setting],
        prefix: str = "db_",
        missing: Mapping[str, Mapping[str, str]] | None = None,
        limited: Collection[str] = (),
    ) -> None:
        self.declared, self.prefix, self.missing = declared, prefix, dict(missing or {})
        self.limited = [key for key in declared if key in limited]
        # By setting, the choices that its dropdown shows under other titles. Gradio 3 has no titles for choices.
        self._titles = {key: titles_with_reasons(needed) for key, needed in self.missing.items()}
        self._choices = {
            key: {title: choice for choice, title in titles.items()} for key, titles in self._titles.items()
        }
        self.controls: dict[str, Any] = {}

    def add(self, key: str, **options: Any) -> Any:
        """Create the control of one setting at this point of the layout."""
        if self._titles.get(key):
            options = {"choices": [self._title(key, choice) for choice in self.declared[key].choices], **options}
        self.controls[key] = create_control(self.declared[key], self.prefix, **options)
        return self.controls[key]

    def add_groups(self, tab: str, first_open: int = 1, notes: Mapping[str, str] | None = None) -> None:
        """Create the other controls of a tab: an accordion per group, with the advanced settings closed within.

        ``notes``: by group, HTML above its controls.
        """
        remaining = [s for s in self.declared.values() if s.tab == tab and s.key not in self.controls]
        for number, (group, settings) in enumerate(by_group(remaining)):
            with gr.Accordion(group, open=number < first_open, elem_id=group_id(tab, group, self.prefix)):
                if notes and group in notes:
                    control(gr.HTML, notes[group], elem_classes=["db_signposts"])
                self._add_all([s for s in settings if not s.advanced])
                advanced = [s for s in settings if s.advanced]
                if advanced:
                    with gr.Accordion("Advanced", open=False):
                        self._add_all(advanced)

    def add_all(self) -> None:
        """Create all controls in a row."""
        self._add_all(list(self.declared.values()))

    def _add_all(self, settings: list[Setting]) -> None:
        for setting in settings:
            self.add(setting.key)

    def components(self) -> list[Any]:
        """The controls in the order of the declarations, which may differ from that on the page."""
        return [self.controls[key] for key in self.declared]

    def values(self, submitted: list[Any]) -> dict[str, Any]:
        """The submitted values of :meth:`components`, by key."""
        return {key: self._choice(key, value) for key, value in zip(self.declared, submitted, strict=True)}

    def file_controls(self) -> list[tuple[str, Any]]:
        """(kind of files, control) for the settings that offer files of the host."""
        return [(setting.file_list, self.controls[key]) for key, setting in self.declared.items() if setting.file_list]

    def secrets(self) -> list[Any]:
        """The controls whose values must not be stored anywhere."""
        return [self.controls[key] for key, setting in self.declared.items() if setting.secret]

    def update(self, key: str, value: Any) -> Any:
        """Update that sets a control to ``value``."""
        return gr.update(value=self._title(key, value))

    def updates(self, changes: Mapping[str, Any]) -> list[Any]:
        """Updates of :meth:`components`: those in ``changes`` get new values, the others stay as they are."""
        return [self.update(key, changes[key]) if key in changes else gr.update() for key in self.declared]

    def _title(self, key: str, value: Any) -> Any:
        """A value as its control holds it."""
        return self._titles.get(key, {}).get(value, control_value(self.declared[key], value))

    def _choice(self, key: str, title: Any) -> Any:
        """The value of a setting whose control holds ``title``."""
        return self._choices[key].get(title, title) if key in self._choices else title

    def unusable_choice(self, key: str, title: Any) -> str:
        """Why the chosen ``title`` can't be used on this machine, in one line; "" if it can."""
        value = self._choice(key, title)
        needed = self.missing.get(key, {}).get(value)
        label = self.declared[key].label
        return f"{key} ({label}): {value} can't be used on this machine: it needs {needed}." if needed else ""

    def dependencies(self) -> list[str]:
        """The settings on which it depends which controls are disabled."""
        names = set(self.limited).union(*(setting.depends_on() for setting in self.declared.values()))
        return [key for key in self.declared if key in names]

    def without_effect(self, submitted: list[Any]) -> list[str]:
        """The elem_ids of controls without effect, given the submitted values of :meth:`dependencies`."""
        values = self._parsed(submitted)
        return [self.prefix + key for key, setting in self.declared.items() if not setting.applies_to(values)]

    def unavailable(self, submitted: list[Any], capabilities: Capabilities) -> dict[str, str]:
        """By elem_id, why a model family can't have a setting; arguments as of :meth:`without_effect`.

        A control that holds a refused value is left out, so that it can be set back.
        """
        values = self._parsed(submitted)
        fixed = [key for key in capabilities.fixed() if not capabilities.refuses(key, values[key])]
        return {self.prefix + key: capabilities.limits[key].reason for key in fixed}

    def _parsed(self, submitted: list[Any]) -> dict[str, Any]:
        """All settings, with the submitted values of :meth:`dependencies`."""
        values = {key: setting.default for key, setting in self.declared.items()}
        for key, value in zip(self.dependencies(), submitted, strict=True):
            values[key] = _parsed_or_default(self.declared[key], self._choice(key, value))
        return values

    def elem_ids(self) -> list[str]:
        return [self.prefix + key for key in self.declared]


def create_control(setting: Setting, prefix: str, **options: Any) -> Any:
    """The control of one setting, by its type, choices and range."""
    common = {"label": setting.label, "info": setting.help, "value": control_value(setting, setting.default)} | options
    common["elem_id"] = prefix + setting.key
    if setting.type is bool:
        return control(gr.Checkbox, **common)
    if setting.choices:
        choices = [control_value(setting, choice) for choice in setting.choices]
        return control(gr.Dropdown, **{"choices": choices, **common})
    if setting.file_list:  # the page fills in the choices, which change while it is open
        return control(gr.Dropdown, choices=[], allow_custom_value=True, **common)
    if setting.secret:
        return control(gr.Textbox, type="password", max_lines=1, **common)
    if setting.type is str:
        return control(gr.Textbox, max_lines=4, **common)
    low, high = setting.low, setting.high
    if setting.step and low is not None and high is not None and (high - low) / setting.step <= MAX_SLIDER_POSITIONS:
        return control(gr.Slider, minimum=setting.low, maximum=setting.high, step=setting.step, **common)
    return control(gr.Number, precision=0 if setting.type is int else None, **common)


def titles_with_reasons(missing: Mapping[str, str]) -> dict[str, str]:
    """By choice, a title that says what it needs.

    javascript/dreambooth.js grays these out in the opened list. Gradio can't disable single choices.
    """
    return {choice: f"{choice} — needs {needed.partition(' (')[0]}" for choice, needed in missing.items()}


def control_value(setting: Setting, value: Any) -> Any:
    """A value as its control holds it: choices as text, because dropdowns of Gradio 3 don't show numbers."""
    return str(value) if setting.choices else value


def _parsed_or_default(setting: Setting, value: Any) -> Any:
    try:
        return setting.parse(value)
    except ValueError:
        return setting.default
