r"""JSON that people write: paths with single backslashes are read as meant, other errors name line and fix."""

from __future__ import annotations

import json
import logging

import pytest

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.json_text import decode_json, parse_json
from tests.cli.commands import run


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"D:\Training\Josh", r"D:\Training\Josh"),
        (r"D:\new\train", r"D:\new\train"),  # valid JSON, with a line break and a tab
        (r"D:\users\me", r"D:\users\me"),  # \u without digits
        (r"D:\u00e9t\u00e9", r"D:\u00e9t\u00e9"),
        (r"C:\\photos\Josh", r"C:\photos\Josh"),
        ("D:\\Training\\", "D:\\Training\\"),  # the last backslash would escape the quote
        (r"\\server\share\x", r"\\server\share\x"),
        (r"\\\\server\share", r"\\server\share"),
        (r"photos\Josh\new", r"photos\Josh\new"),
        (r"name_\(film\)", r"name_\(film\)"),
        (r"C:\\photos\\Josh", r"C:\photos\Josh"),
        (r"\\\\server\\share", r"\\server\share"),
        (r"\\folder\\sub", r"\folder\sub"),
        (r"line\nbreak, \u00e9, say \"C:\\x\" twice", 'line\nbreak, é, say "C:\\x" twice'),
    ],
)
def test_backslashes_are_read_as_they_are_meant(written, meant, caplog):
    text = f'[{{"first": "{written}", "second": "{written}"}}]'
    with caplog.at_level(logging.WARNING, "dreambooth"):
        assert parse_json(text, "concepts.json", by_hand=True) == [{"first": meant, "second": meant}]
    try:
        is_valid = json.loads(text) == [{"first": meant, "second": meant}]
    except ValueError:
        is_valid = False
    assert bool(caplog.messages) != is_valid
    assert is_valid or ("concepts.json" in caplog.text and "line 1" in caplog.text)


def test_files_of_programs_are_read_literally():
    assert parse_json(r'["A:\tB"]', "history.json") == ["A:\tB"]
    with pytest.raises(UserError, match="escape"):
        parse_json(r'["D:\Training"]', "manifest.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, // the first\n"b": 2}', "line 1 has a comment"),
        ('{"a": 1,\n/* the second */ "b": 2}', "line 2 has a comment"),
        ("# concepts\n[]", "line 1 has a comment"),
        ('[1,\n2,\n]', "the comma after the last entry"),
        ('{"a": 1,}', "the comma after the last entry"),
        ("{'a': 1}", "single quotes"),
        ('{"a": "two\nlines"}', "line 1 has a line break or tab"),
        ('[\n{"a": 1}\n{"b": 2}]', "line 3"),
        ("", "it is empty"),
        ("[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by_hand", [True, False])
def test_errors_name_the_line_and_the_fix(text, expected, by_hand):
    with pytest.raises(UserError) as caught:
        parse_json(text, "concepts.json", by_hand)
    (problem,) = caught.value.problems
    assert problem.startswith("concepts.json is not valid JSON") and expected in problem


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{"a": "é"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"a": "é"}


def test_another_encoding_is_named_with_its_line():
    with pytest.raises(UserError, match=r"is not UTF-8 text \(line 2\)"):
        decode_json('{"a": 1,\n"b": "é"}'.encode("latin-1"), "a.json")


def test_a_concepts_file_with_paths_of_windows(mini, models_dir, tmp_path):
    (tmp_path / "c.json").write_text('[{"instance_data_dir": "D:\\Training\\new", "class_data_dir": "D:\\men\\"}]')
    result = run("check", "mini", "--concepts", tmp_path / "c.json", "--models-dir", models_dir)
    assert result.returncode == 1
    assert "instance_data_dir: D:\\Training\\new" in result.stderr and "JSON needs / or \\\\" in result.stderr
