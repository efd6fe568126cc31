"""Reference of all settings, generated from their declarations: a table for terminals and docs/settings.md."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from dreambooth.settings.concept import CONCEPT
from dreambooth.settings.declare import Setting, by_group
from dreambooth.settings.run import SETTINGS

COMMAND = "python -m dreambooth settings --markdown > docs/settings.md"
MIN_WIDTH, MAX_WIDTH = 100, 140  # characters, of the table
MAX_INLINE = 19  # characters of a range or of choices that fit into their column
_ABOUT = f"""\
# Settings

Every setting of a training run, by tab and group of the page, then those of a concept. Set them on the page, with
`--set key=value` on the command line, or in `db_config.json`; those of a concept on the page or in a concepts file
(`--concepts`). `python -m dreambooth settings` prints a shorter table; with `--json`, a run's settings for programs.

This page is generated from the declarations in `dreambooth/settings/`. Edit those, then run

    {COMMAND}"""


def table(width: int = 120) -> str:
    """All settings by group, one row each: key, default, range or choices, first sentence of the help."""
    width = min(max(width, MIN_WIDTH), MAX_WIDTH)
    key_width = max(map(len, [*SETTINGS, *CONCEPT]))
    lines = []
    for title, members in _sections():
        rows = [(s.key, _default(s) or "(empty)", *_values_and_help(s)) for s in members]
        defaults, values = ([row[column] for row in rows] for column in (1, 2))
        widths = [key_width, max(map(len, defaults)), max(map(len, values))]
        left = width - sum(widths) - len("  ") * 4
        lines += ["", title] if lines else [title]
        for *cells, texts in rows:
            help = [line for text in texts for line in textwrap.wrap(text, left) or [""]]
            padded = ["  " + cell.ljust(column) for cell, column in zip(cells, widths, strict=True)]
            lines.append("".join([*padded, "  ", help[0]]))
            lines += [" " * (width - left) + line for line in help[1:]]
    return "\n".join(lines)


def markdown() -> str:
    """Contents of docs/settings.md, without the final line break."""
    parts, tab = [_ABOUT], ""
    for title, members in _sections():
        of_tab, _, group = title.partition(" > ")
        if of_tab != tab:
            tab = of_tab
            parts.append(f"## {tab}")
        rows = [
            f"| `{s.key}` | {_escaped(s.label)} | {_code(_default(s))} | {_values(s, _code)} | {_description(s)} |"
            for s in members
        ]
        parts.append("\n".join([f"### {group}", "", "| Key | Label | Default | Values | Description |",
                                "|---|---|---|---|---|", *rows]))  # fmt: skip
    return "\n\n".join(parts)


def condition(applies: str, settings: Mapping[str, Setting]) -> str:
    """The condition under which a setting has an effect, in words: ``a and not b`` gives "`a` is on and `b` is off"."""
    return _in_words(ast.parse(applies, mode="eval").body, settings)


def _sections() -> Iterator[tuple[str, list[Setting]]]:
    """("tab > group", settings of the group), in the order of the page."""
    for tab in dict.fromkeys(s.tab for s in SETTINGS.values()):
        for group, members in by_group([s for s in SETTINGS.values() if s.tab == tab]):
            yield f"{tab} > {group}", members
    for group, members in by_group(list(CONCEPT.values())):
        yield f"Concepts > {group}", members


def _default(setting: Setting) -> str:
    """The default, as written after ``--set key=``."""
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    return str(setting.default)


def _values(setting: Setting, formatted: Any = str) -> str:
    """Allowed values: choices, range or type."""
    if setting.choices:
        return ", ".join(formatted(str(choice)) for choice in setting.choices)
    if setting.type is bool:
        return f"{formatted('true')}, {formatted('false')}"
    if setting.type is str:
        return "text"
    low, high = setting.low, setting.high
    if low is None:
        return "number" if high is None else f"{_number(high)} or less"
    return f"{_number(low)} or more" if high is None else f"{_number(low)} to {_number(high)}"


def _values_and_help(setting: Setting) -> tuple[str, list[str]]:
    """Cells of the table; a long list of choices follows the help."""
    values, help = _values(setting), _first_sentence(setting.help)
    if len(values) <= MAX_INLINE:
        return values, [help]
    return f"{len(setting.choices)} choices", [help, f"Choices: {values}."]


def _first_sentence(text: str) -> str:
    """Up to the first period that a capital letter follows."""
    for index, character in enumerate(text):
        if character == "." and text[index + 1 : index + 2] == " " and text[index + 2 : index + 3].isupper():
            return text[: index + 1]
    return text


def _description(setting: Setting) -> str:
    settings = CONCEPT if CONCEPT.get(setting.key) is setting else SETTINGS
    only = f" *Only if {condition(setting.applies, settings)}.*" if setting.applies else ""
    return _escaped(setting.help) + only


def _number(value: float) -> str:
    """Without an exponent for whole numbers: 10,000,000."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _escaped(text: str) -> str:
    """Plain text for a cell of a Markdown table."""
    for character in "\\|*<`":
        text = text.replace(character, f"\\{character}")
    return text


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else "empty"


_COMPARISONS = {
    ast.Eq: "is", ast.NotEq: "is not", ast.In: "is", ast.NotIn: "is not", ast.Gt: "is more than",
    ast.GtE: "is at least", ast.Lt: "is less than", ast.LtE: "is at most",
}  # fmt: skip


def _in_words(node: ast.expr, settings: Mapping[str, Setting]) -> str:
    if isinstance(node, ast.BoolOp):
        word = " and " if isinstance(node.op, ast.And) else ", or " if _mixed(node) else " or "
        parts = [_in_words(part, settings) for part in node.values]
        grouped = [
            f"({text})" if isinstance(node.op, ast.And) and isinstance(part, ast.BoolOp) else text
            for part, text in zip(node.values, parts, strict=True)
        ]
        return word.join(grouped)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Name):
        return f"`{node.operand.id}` {_states(settings.get(node.operand.id))[1]}"
    if isinstance(node, ast.Name):
        return f"`{node.id}` {_states(settings.get(node.id))[0]}"
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.left, ast.Name):
        values = ast.literal_eval(node.comparators[0])
        texts = [f"`{value}`" for value in (values if isinstance(values, tuple) else (values,))]
        listed = " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
        return f"`{node.left.id}` {_COMPARISONS[type(node.ops[0])]} {listed}"
    return f"`{ast.unparse(node)}`"


def _states(setting: Setting | None) -> tuple[str, str]:
    """Words for a setting that is true, and for one that is not."""
    if setting is None or setting.type is bool:
        return "is on", "is off"
    return ("is set", "is empty") if setting.type is str else ("is not `0`", "is `0`")


def _mixed(node: ast.BoolOp) -> bool:
    return any(isinstance(part, ast.BoolOp) for part in node.values)
