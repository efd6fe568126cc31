"""--concepts and PATH: check, train and plan read the same things, and refuse others by what they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dreambooth.dataset.planning import make_plan
from dreambooth.interop.input_kind import recognize_concepts, recognize_input
from dreambooth.settings import Concept, ModelFolder, Settings, parse
from tests.cli.commands import run
from tests.interop.test_onetrainer import make_images


def _inputs(folder: Path) -> dict[str, Path]:
    """Each kind of input, for the images of one folder."""
    images = make_images(folder / "my photos/5_zwx toy", "one two")
    for image in images.glob("*.png"):
        image.with_suffix(".txt").write_text(f"a zwx toy, {image.stem}")
    plain = make_images(folder / "plain", "one two")
    (plain / "metadata.csv").write_text("file_name,text\none.png,first\ntwo.png,second\n")
    texts = {
        "concepts.json": json.dumps([{"instance_data_dir": "plain", "num_repeats": 2}]),
        "db_config.json": json.dumps({"resolution": 64, "concepts_list": [{"instance_data_dir": "plain"}]}),
        "dataset.toml": "[[datasets]]\nresolution = 64\nshuffle_caption = true\n[[datasets.subsets]]\n"
        "image_dir = 'plain'\nnum_repeats = 3\ncaption_extension = '.txt'\n",
        "train.toml": "train_data_dir = 'my photos'\nresolution = '64'\nlearning_rate = 1e-4\n",
        "onetrainer.json": json.dumps([{"path": "plain", "text": {}, "image": {}}]),
        "job.yaml": "job: extension\nconfig:\n  process:\n  - type: sd_trainer\n    model: {name_or_path: x}\n"
        "    datasets: [{folder_path: plain}]\n",
        "rows.jsonl": '{"file_name": "plain/one.png", "text": "first"}\n',
        "list.json": json.dumps([{"path": "plain/one.png", "text": "first"}, {"path": "plain/two.png", "text": ""}]),
        "meta.json": json.dumps({"plain/one.png": {"caption": "first"}}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {"folder": folder / "plain", "named": folder / "my photos", **{name: folder / name for name in texts}}


KINDS = ["folder", "named", "concepts.json", "db_config.json", "dataset.toml", "train.toml", "onetrainer.json",
         "job.yaml", "rows.jsonl", "list.json", "meta.json"]  # fmt: skip


def _captions(concepts: Sequence[Concept], settings: Settings) -> list[tuple[Path, set[str]]]:
    plan = make_plan(concepts, settings)
    return [(example.path, {example.caption, *example.variants}) for example in plan.examples]


@pytest.mark.parametrize("kind", KINDS)
def test_concepts_are_those_that_plan_shows(tmp_path: Path, kind: str) -> None:
    path, small = _inputs(tmp_path)[kind], {"resolution": 64, "resolution_height": 0, "bucket_rule": "one size"}
    found, alone = recognize_input(path), recognize_concepts(path)
    planned = _captions(found.concepts, parse(Settings, {**found.settings, **small}))
    assert planned and planned == _captions(alone.concepts, parse(Settings, small))
    has_other_settings = bool(found.settings.keys() - {"shuffle_tags", "keep_tokens", "tag_dropout", "caption_dropout"})
    assert any("Only the concepts are used" in message for message in alone.unsupported) == has_other_settings


def test_commands_take_a_folder(mini: ModelFolder, tmp_path: Path) -> None:
    folder = _inputs(tmp_path)["folder"]
    small = ["--set", "resolution=64", "bucket_step=64", "--models-dir", mini.folders.models, "--json"]
    checked = json.loads(run("check", mini.name, "--concepts", folder, *small).stdout)
    assert [row["caption"] for row in checked["table"]] == ["first", "second"]


def test_how_captions_vary_belongs_to_the_concepts(tmp_path: Path) -> None:
    found = recognize_concepts(_inputs(tmp_path)["dataset.toml"])
    (concept,) = found.concepts
    assert (concept.shuffle_tags, concept.keep_tokens, concept.hflip, concept.num_repeats) == ("on", 0, "off", 3)
    assert "resolution" in found.unsupported[-1] and not found.settings


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("notes.txt", "hello", "notes.txt"), ("empty.json", "[]", "no concepts"), ("gone", None, "gone"),
        ("x.json", '{"a": 1}', "not recognized"), ("data.parquet", "PAR1\0", "Export"),
        ("model.safetensors", "\0\0", "model.safetensors"),
        ("samples.json", '[{"prompt": "x", "cfg_scale": 7, "diffusion_steps": 3}]', "samples"),
        ("list.json", '["a", "b"]', "not recognized"),
    ],
)  # fmt: skip
def test_what_is_no_concepts_is_refused_by_what_it_is(
    tmp_path: Path, name: str, content: str | None, hint: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    refused = run("plan", make_images(tmp_path / "a"), "--concepts", path)
    assert refused.returncode == 1 and hint in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and "emove" not in refused.stderr
