"""The settings reference: the table of the command line and docs/settings.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dreambooth.cli import main
from dreambooth.settings import CONCEPT, SETTINGS, reference
from dreambooth.settings.reference import COMMAND, condition, markdown, table

ROOT = Path(__file__).resolve().parents[2]


def test_the_settings_page_is_current():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == markdown() + "\n", f"docs/settings.md differs from the declarations. Run: {COMMAND}"


def test_the_command_prints_the_page(capsys):
    assert main(["settings", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown() + "\n"


def test_every_row_of_the_page_has_five_cells():
    """An unescaped | in a text would add cells."""
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(SETTINGS) + len(CONCEPT)
    assert {len(re.split(r"(?<!\\)\|", row)) - 2 for row in rows} == {5}


def test_json_keeps_its_fields(capsys):
    assert main(["settings", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == list(SETTINGS)
    rate = SETTINGS["learning_rate"]
    assert printed["learning_rate"] == {
        "default": 2e-6, "label": rate.label, "help": rate.help, "low": 0, "high": 1, "choices": [], "tab": "Settings",
        "group": "Learning Rate", "applies": "not use_lora and lr_scheduler != 'adafactor'",
    }  # fmt: skip
    assert printed["ema_precision"]["choices"] == ["fp32", "bf16"]


@pytest.mark.parametrize("columns, width", [(80, 100), (100, 100), (120, 120), (300, 140)])
def test_the_table_fits_its_width(columns, width):
    lines = table(columns).splitlines()
    assert width - 15 < max(map(len, lines)) <= width


def test_the_piped_table_has_every_setting_in_its_group(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["settings"]) == 0
    groups = {}
    for block in capsys.readouterr().out.strip("\n").split("\n\n"):
        title, *lines = block.splitlines()
        groups[title] = [line.split()[0] for line in lines if line[2] != " "]
    assert len(groups) == len({(s.tab, s.group) for s in SETTINGS.values()}) + len({s.group for s in CONCEPT.values()})
    for setting in SETTINGS.values():
        assert setting.key in groups[f"{setting.tab} > {setting.group}"]
    for setting in CONCEPT.values():
        assert setting.key in groups[f"Concepts > {setting.group}"]
    assert sum(map(len, groups.values())) == len(SETTINGS) + len(CONCEPT)


def test_a_row_shows_default_range_and_choices():
    text = table(140)
    assert re.search(r"^  num_train_epochs +100 +1 to 100,000 +\S", text, re.MULTILINE)
    assert re.search(r"^  train_unet +true +true, false +\S", text, re.MULTILINE)
    assert re.search(r"^  custom_model_name +\(empty\) +text +\S", text, re.MULTILINE)
    assert re.search(r"^  lora_type +LoRA +LoRA, LoHa, LoKr +\S", text, re.MULTILINE)
    joined = " ".join(text.split())
    assert f"Choices: {', '.join(SETTINGS['optimizer'].choices)}." in joined


@pytest.mark.parametrize(
    "applies, words",
    [
        ("use_lora", "`use_lora` is on"),
        ("not use_lora and stop_text_encoder > 0", "`use_lora` is off and `stop_text_encoder` is more than `0`"),
        ("lr_scheduler in ('linear', 'rex')", "`lr_scheduler` is `linear` or `rex`"),
        ("lr_scheduler not in ('a', 'b', 'c')", "`lr_scheduler` is not `a`, `b` or `c`"),
        ("use_ema and (use_lora or lora_start)", "`use_ema` is on and (`use_lora` is on or `lora_start` is set)"),
        ("use_ema and use_lora or not seed", "`use_ema` is on and `use_lora` is on, or `seed` is `0`"),
        ("max_train_steps", "`max_train_steps` is not `0`"),
        ("seed % 2", "`seed % 2`"),
    ],
)
def test_conditions_in_words(applies, words):
    assert condition(applies, SETTINGS) == words


def test_every_declared_condition_is_described():
    for setting in [*SETTINGS.values(), *CONCEPT.values()]:
        if setting.applies:
            text = condition(setting.applies, SETTINGS)
            assert all(f"`{name}` is" in text for name in setting.depends_on()), text


def test_help_is_cut_after_its_first_sentence():
    assert reference._first_sentence("Of images, e.g. these. More of them take longer.") == "Of images, e.g. these."
    assert reference._first_sentence("Between 0.1 and 0.5") == "Between 0.1 and 0.5"
