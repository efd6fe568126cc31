"""tools/list_texts.py: which texts it lists, with which places, and which it leaves out."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth.settings import CONCEPT, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "list_texts.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("list_texts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(tool):
    return [text for path in tool.files() for text in tool.texts(path)]


@pytest.fixture
def texts_of(tool, tmp_path):
    """The texts of some source, as they would be found in the package of the page."""

    def texts(source, docstrings=False, path="dreambooth/ui/page.py"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        original, tool.ROOT = tool.ROOT, tmp_path
        try:
            return [(text.line, text.text) for text in tool.texts(file, docstrings)]
        finally:
            tool.ROOT = original

    return texts


def _line(path, part):
    """The only line of a file that has this part."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if part in line]
    assert len(numbers) == 1, f"{path} has {part} {len(numbers)} times"
    return numbers[0]


def test_labels_and_helps_of_all_settings_are_listed(found):
    texts = {text.text for text in found if text.path.startswith("dreambooth/settings/")}
    for setting in [*SETTINGS.values(), *CONCEPT.values()]:
        assert {setting.label, setting.help, setting.group} <= texts, setting.key
        assert not setting.applies or setting.applies not in texts, setting.key


def test_known_texts_have_their_places(found):
    for path, part, text in [
        ("dreambooth/settings/training.py", "num_train_epochs: int", SETTINGS["num_train_epochs"].label),
        ("dreambooth/cli/arguments.py", '"machine-readable output"', "machine-readable output"),
        ("dreambooth/ui/columns.py", '"Save Params"', "Save Params"),
        ("javascript/dreambooth.js", "[Dreambooth ${", "[Dreambooth ${percent}] ${plain}"),
        ("install.py", "is missing. Install", "{name} is missing. Install {name}>={least} in the WebUI's environment."),
    ]:
        assert (path, _line(path, part), text) in found


def test_the_script_prints_place_tab_text():
    """Without the package: the interpreter gets nothing but the standard library."""
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "--package", "cli", "--grep", "MACHINE-readable"],
        capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    number = _line("dreambooth/cli/arguments.py", '"machine-readable output"')
    assert run.stdout == f"dreambooth/cli/arguments.py:{number}\tmachine-readable output\n"


def test_a_text_is_printed_on_one_line(tool):
    assert str(tool.Text("a.py", 3, "one\ntwo\t\\n")) == "a.py:3\tone\\ntwo\\t\\\\n"


def test_an_unknown_package_is_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(["--package", "no_such_package"])
    assert "no_such_package" in capsys.readouterr().err


def test_only_one_package(tool):
    assert {path.parent.name for path in tool.files("cli")} == {"cli"}
    assert tool.files("dreambooth.ui.page") == tool.files("ui/page.py") == [ROOT / "dreambooth" / "ui" / "page.py"]
    assert tool.files("install") == [ROOT / "install.py"]


@pytest.mark.parametrize(
    "source, texts",
    [
        ('raise UserError(f"{path}: " f"is not {kind!r}.")', ["{path}: is not {kind!r}."]),
        ('raise UserError("first " + name +\n  " second")', ["first {name} second"]),
        ('events.phase("training")', ["training"]),
        ('progress(1, 2, "latents")', ["latents"]),
        ('events.message("Saved", level="warning")', ["Saved"]),
        ('print("one\\ntwo\\t")', ["one\ntwo\t"]),
        ('x = gr.Button("go", elem_id="db_go", variant="primary")', ["go"]),
        ('x = control(gr.Accordion, "more", open=False)', ["more"]),
        ('x = control(gr.Textbox, label="name", placeholder="path", elem_id="db_name")', ["name", "path"]),
        ('parser.add_argument("--out", metavar="FILE", help="output")', ["output"]),
        ('f(f"{n} {\'file\' if n == 1 else \'files\'}")', ["{n} {'file' if n == 1 else 'files'}"]),
        ('x = {"a": "Model", "b": "see below"}', ["Model", "see below"]),
        ('x = {"Save it first.": wanted}', ["Save it first."]),
        ('x = f\'<p class="db_x y" title="Shown large">{value}</p>\'',
         ['<p class="db_x y" title="Shown large">{value}</p>']),
        ('KINDS = ("plain", "two words")\nx: str = setting("plain", "Group", "Label", "Help.", choices=KINDS,\n'
         '  applies="use_lora and x")', ["Group", "Help.", "Label", "plain", "two words"]),
    ],
)  # fmt: skip
def test_what_is_a_text(texts_of, source, texts):
    assert sorted(text for _, text in texts_of(source)) == texts


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring of words."""',
        'log.debug("not shown to users")',
        'x = re.compile("two words")',
        'db.execute("SELECT x FROM y")',
        'if name == "Torch AdamW": pass',
        'x = values["some key"]',
        'x = text.removeprefix("concept number ")',
        'def f(x: "list[int] | None") -> "str | None": pass',
        "x = f'<div class=\"db_a db_b\"><b>{value}</b></div>'",
        'x = f"{a}: {b}"',
        'x = "encoder.down.0.weight"',
        'x = control(gr.HTML, elem_classes=["db_said one"])',
    ],
)
def test_what_is_none(texts_of, source):
    assert texts_of(source) == []


def test_lines_are_those_where_a_text_begins(texts_of):
    source = 'x = 1\nraise UserError(\n    "begins here "\n    "and ends here."\n)\n'
    assert texts_of(source) == [(3, "begins here and ends here.")]


def test_docstrings_and_comments_on_demand(texts_of):
    source = '"""First line.\n\nThird line."""\nx = 1  # why\ny = 2  # noqa: E501\n'
    assert texts_of(source, docstrings=True) == [(1, '"""First line.'), (3, 'Third line."""'), (4, "# why")]
    assert texts_of(source) == []


def test_javascript(texts_of):
    source = (
        '// it\'s a "comment here"\nlabel = "Two words";\nif (key === "Escape") go();\n'
        'root.querySelector("#db_x textarea");\ntabs = { pictures: "Pictures", a: "plain" };\nt = `${a} ${b}`;\n'
    )
    assert texts_of(source, path="javascript/x.js") == [(2, "Two words"), (5, "Pictures")]
    assert (1, '// it\'s a "comment here"') in texts_of(source, docstrings=True, path="javascript/x.js")
