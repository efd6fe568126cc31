"""The state of a run from its events: of this process, after a reload, from another process's log."""

from __future__ import annotations

import json
import re

import pytest

from dreambooth.jobs import Events
from dreambooth.jobs.events import Started, Step
from dreambooth.ui.chart import loss_chart
from dreambooth.ui.log_reader import LogReader
from dreambooth.ui.run_view import Curve, RunView


def steps(n: int, total: int = 1000) -> list[dict]:
    return [
        {"kind": "step", "step": i, "total": total, "epoch": i // 10, "epochs": total // 10, "loss": 1 / i,
         "prior_loss": None, "lr": 1e-4, "seconds": 0.5, "memory": None}
        for i in range(1, n + 1)
    ]  # fmt: skip


def test_a_curve_keeps_its_shape_in_few_points():
    curve = Curve(size=50)
    for x in range(100_000):
        curve.add(x, 3.0 if x < 50_000 else 1.0)
    assert len(curve.points) <= 100
    assert curve.points[0][1] == pytest.approx(3) and curve.points[-1][1] == pytest.approx(1)
    middle = [y for x, y in curve.points if 49_000 < x < 51_000]
    assert all(1 <= y <= 3 for y in middle)
    assert curve.smoothed()[0][1] == pytest.approx(3)  # no bias at the start


def test_a_run_in_words():
    run = RunView(name="toy").feed_all([{"kind": "started", "what": "train"}, {"kind": "phase", "name": "latents"}])
    assert run.status_line() == "Training toy: Encoding images…"
    run.feed({"kind": "progress", "phase": "latents", "done": 33, "total": 100})
    assert run.status_line() == "Training toy: latents 33 of 100" and run.fraction_done() == pytest.approx(0.33)
    run.feed_all(steps(400))
    assert run.status_line() == "Training toy: step 400 of 1000 · epoch 41 of 100 · 5:00 left · 0.50 s per step"
    assert run.status_line(alive=False) == "A run was interrupted at step 400 of 1000."
    assert "<polyline" in loss_chart(run) and "class loss" not in loss_chart(run)
    run.feed({"kind": "ended", "state": "failed", "text": "The disk is full."})
    assert run.status_line() == "The disk is full."


def test_a_log_is_read_as_it_grows(tmp_path):
    """Also one that breaks off in the middle of a line."""
    reader, events = LogReader(), Events(tmp_path)
    events.send(Started("train"))
    assert reader.run("toy", tmp_path).job == "train"
    for event in steps(3):
        events.send(Step(**{key: value for key, value in event.items() if key != "kind"}))
    assert reader.run("toy", tmp_path).step["step"] == 3
    with events.path.open("a") as file:
        file.write('{"kind": "step", "st')
    assert reader.run("toy", tmp_path).step["step"] == 3
    with events.path.open("a") as file:
        file.write('ep": 4, "total": 9}\n')
    run = reader.run("toy", tmp_path)
    assert (run.step["step"], len(run.loss.points)) == (4, 3)
    events.close()


def test_the_gallery_of_a_finished_run_begins_with_first_and_last_sample(tmp_path):
    run = RunView()
    for step in (10, 20, 30):
        path = tmp_path / f"{step}.png"
        path.touch()
        run.feed({"kind": "preview", "path": str(path), "prompt": "a toy", "seed": 1, "step": step})
    assert [path.rpartition("/")[2] for path, _ in run.gallery()] == ["30.png", "20.png", "10.png"]
    run.feed({"kind": "ended", "state": "done"})
    assert [path.rpartition("/")[2] for path, _ in run.gallery()] == ["10.png", "30.png", "20.png"]


def test_users_texts_are_escaped():
    from dreambooth.ui import render, render_images
    from dreambooth.ui.run_view import SavedFile

    evil = "<img src=x onerror=alert(1)>"
    row = {"path": evil, "concept": 1, "kind": "instance", "caption": evil, "captions": [evil], "caption_from": evil,
           "varies": [evil], "size": [1, 1], "bucket": [1, 1], "crop": [0, 0, 1, 1], "kept": 1.0, "enlarged": 1.0,
           "tokens": 1, "cut_off": evil, "repeats": 1, "class_partners": 1, "class_partner_names": [evil],
           "warnings": [evil], "warning_kinds": ["odd"]}  # fmt: skip
    shown = [
        render.lines([evil]), render.problems([evil, f"learning_rate ({evil}): wrong"]),
        render.status(evil, "failed", evil),
        render.status(evil, "done", "", SavedFile("lora", evil, evil)),
        render.saved_files([SavedFile("lora", evil, evil)]), render_images.image_table([row]),
        json.dumps(loss_chart(RunView(step={"lr": 0.0}))),
    ]  # fmt: skip
    shown += [render_images.gallery([row], [0], [""], 0, 1), render_images.large(row, "")]
    shown += [render_images.gallery([row], [0], ["data:,"], 0, 1).replace('<img src="data:,"', "")]
    assert not any("<img" in text for text in shown)


def test_class_images_are_generated_from_the_page(mini, models_dir, subject_concepts):
    """The parameters of the page are saved and checked first."""
    import dataclasses

    from dreambooth.hosts import StandaloneHost
    from dreambooth.jobs import jobs
    from dreambooth.settings import Settings, concept_values, read_concepts
    from dreambooth.ui.page_controller import PageController

    (concept,), _ = read_concepts(subject_concepts)
    asked = {**concept_values(concept), "num_class_images_per": 1, "class_infer_steps": 1, "class_prompt": "a toy"}
    settings = {**dataclasses.asdict(Settings()), "resolution": 64, "bucket_step": 32}
    page_controller = PageController(StandaloneHost(models_dir))
    assert page_controller.class_images("mini", settings, [asked]) == ""
    assert jobs.current.wait(120)
    assert "Generated 6 class images." in page_controller.page_state("mini").status
    assert len(list((mini.root / "classifiers_0").glob("*.png"))) == 6
    page_controller.class_images("mini", settings, [{**asked, "class_prompt": ""}])
    assert jobs.current.wait(60)
    assert "class_prompt" in page_controller.page_state("mini").status


@pytest.mark.parametrize(
    ("text", "link", "shown"),
    [
        ("seed: -5 is too low.", "db_seed", "Training seed: -5 is too low."),
        ("num_train_epochs (Training steps per image (epochs)): no.", "db_num_train_epochs",
         "Training steps per image (epochs): no."),
        ("full_mixed_precision needs bf16.", "db_full_mixed_precision", "Full mixed precision needs bf16."),
        ("concept 2: num_repeats (Repeats): no.", "db_c2_num_repeats", "concept 2: Repeats: no."),
        ("Concept 1, instance_data_dir: none.", "db_c1_instance_data_dir", "Concept 1, Dataset directory: none."),
        ("Concept 1, seed: none.", "", "Concept 1, seed: none."),
        ("seeds are missing.", "", "seeds are missing."),
        ("", "", ""),
    ],
)  # fmt: skip
def test_errors_link_to_their_field(text, link, shown):
    from dreambooth.ui import render

    problem = render.problems([text])
    assert re.findall(r'href="#(.*?)"', problem) == ([link] if link else [])
    assert re.sub("<.*?>", "", problem) == shown
