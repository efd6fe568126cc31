"""Actions behind the page's buttons, and the page's state, without Gradio events."""

from __future__ import annotations

import dataclasses
import html
import logging
import re
import threading
import time

from dreambooth.checkpoints import hub
from dreambooth.jobs import Ended, FileSaved, jobs
from dreambooth.jobs.events import PreviewSaved, Step
from dreambooth.settings import SETTINGS, concept_values, read_concepts
from dreambooth.ui.fields import Fields
from dreambooth.ui.file_choices import OWN
from tests.mini_models import make

TOKEN = "hf_that_nobody_may_read"


def test_an_error_of_create_stays_in_the_status(page_controller, mini, done, tmp_path):
    """After the job has ended, with the model that the page shows or none."""
    for shown in ("", "mini"):
        done(page_controller.create("new", str(tmp_path / "nowhere.safetensors"), {}, shown))
        assert "nowhere.safetensors does not exist" in page_controller.page_state(shown).status
    assert jobs.current.error


def test_a_token_is_used_once_and_stored_nowhere(
    page_controller, done, models_dir, mini_checkpoint, monkeypatch, caplog
):
    """After success and failure: not on disk, in events, in logs or on the page."""
    caplog.set_level(logging.DEBUG)
    used = []

    def download(source, token="", progress=None):
        used.append((source, token))
        if source.endswith("gone"):
            raise hub.UserError(f"{source} is gone.")
        return mini_checkpoint

    monkeypatch.setattr(hub, "download", download)
    done(page_controller.create("new", "someone/model", {"token": TOKEN}))
    done(page_controller.create("other", "someone/gone", {"token": TOKEN}))
    assert used == [("someone/model", TOKEN), ("someone/gone", TOKEN)]
    assert page_controller.model_names() == ["new"] and "someone/gone is gone" in page_controller.page_state("").status
    texts = [str(dataclasses.asdict(page_controller.page_state(name))) for name in ("new", "")]
    texts += [str(vars(page_controller.job_runner.run_view)), caplog.text, repr(page_controller.model("new").load())]
    assert not any(TOKEN in text for text in texts)
    files = [path for path in models_dir.rglob("*") if path.is_file()]
    assert files and not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_vaes_of_the_models_folder_are_offered(page_controller, done, models_dir, mini_checkpoint):
    folder = models_dir / "VAE" / "sub"
    folder.mkdir(parents=True)
    (folder / "one.pt").touch()
    (folder / "readme.txt").touch()
    assert page_controller.file_choices.titles("vaes") == [OWN, "sub/one.pt"]
    done(page_controller.create("new", "Embedded mini model", {"vae": "sub/one.pt"}))
    assert "one.pt is empty" in page_controller.page_state("").status
    done(page_controller.create("new", "Embedded mini model", {"vae": OWN}))
    assert "Created new (Stable Diffusion 1.x)" in page_controller.page_state("new").status


def test_text_encoders_of_the_models_folder_are_offered(page_controller, done, models_dir, mini_checkpoint):
    folder = models_dir / "text_encoder"
    folder.mkdir(parents=True)
    (folder / "one.sft").touch()
    assert page_controller.file_choices.titles("text_encoders") == [OWN, "one.sft"]
    assert page_controller.file_choices.path("files", "one.sft") == str(folder / "one.sft"), "it can be inspected"
    done(page_controller.create("new", "Embedded mini model", {"text_encoder": OWN, "text_encoder_2": "one.sft"}))
    assert "one.sft is empty" in page_controller.page_state("").status


def test_the_model_summary_is_readable(page_controller, done, tmp_path):
    source = make(tmp_path / "xl.safetensors", "SDXL", inpainting=True, v_pred=True)
    done(page_controller.create("xl", str(source), {}))
    summary = page_controller.page_state("xl").model_summary
    for part in ("xl.safetensors", "Stable Diffusion XL, inpainting, v-prediction, 64 px", "fp16 · "):
        assert part in summary
    done(page_controller.create("exact", str(source), {"precision": "fp32"}))
    assert "fp32 · " in page_controller.page_state("exact").model_summary


def test_check_shows_the_planned_learning_rates(page_controller, mini, subject_concepts):
    concepts = [concept_values(concept) for concept in read_concepts(subject_concepts)[0]]
    settings = {"resolution": 64, "lr_scheduler": "cosine", "stop_text_encoder": 0, "num_train_epochs": 2}
    assert "No steps yet" in page_controller.page_state("mini").chart
    page_controller.check("mini", settings, concepts)
    chart = page_controller.page_state("mini").chart
    assert "Planned learning rates" in chart and chart.count("<polyline") == 1 and "Planned timesteps" not in chart
    shifted = {"timestep_sampling": "logit_normal", "timestep_shift": 3}
    page_controller.check("mini", {**settings, **shifted}, concepts)
    chart = page_controller.page_state("mini").chart
    assert "Planned timesteps: logit_normal, shifted by 3<" in chart.replace("</span>", "")
    heights = [float(height) for height in re.findall(r'db_share".*?height="([\d.]+)"', chart)]
    assert len(heights) == 25 and heights.index(max(heights)) > 14 and heights[0] < 1 < heights[-1]


def test_choices_that_cannot_be_used_here_are_shown_with_the_reason(page_controller):
    """Also those of settings saved on another machine."""
    fields = Fields(SETTINGS, missing=page_controller.missing_requirements())
    shown = fields.update("mixed_precision", "fp16")["value"]
    assert shown == "fp16 — needs an NVIDIA or AMD GPU"
    assert fields.update("mixed_precision", "auto")["value"] == "auto"
    titles = [str(fields.update("mixed_precision", choice)["value"]) for choice in ("auto", "no", "fp16", "bf16")]
    choices = fields.add("mixed_precision").choices  # newer Gradio has pairs of title and value
    assert [choice[1] if isinstance(choice, tuple) else choice for choice in choices] == titles
    submitted = [setting.default for setting in SETTINGS.values()]
    submitted[list(SETTINGS).index("mixed_precision")] = shown
    assert fields.values(submitted)["mixed_precision"] == "fp16"
    assert fields.unusable_choice("mixed_precision", shown) == fields.unusable_choice("mixed_precision", "fp16")
    assert fields.unusable_choice("mixed_precision", "fp16") == (
        "mixed_precision (Mixed precision): fp16 can't be used on this machine: it needs an NVIDIA or AMD GPU."
    )
    assert fields.unusable_choice("mixed_precision", "auto") == ""
    assert "needs" in fields.update("attention", "xformers")["value"]


def test_a_request_is_shown_until_it_is_carried_out(page_controller, mini):
    steps = threading.Semaphore(0)

    def work(controls, events):
        while not controls.stopped:
            steps.acquire(timeout=30)
            controls.consume_sample_request()

    page_controller.job_runner.start("train", "mini", work, model="mini")
    samples, cancel, stop = (
        "Samples will be generated after this step.",
        "Press Cancel again to stop immediately.",
        "Stopping now, without saving.",
    )
    assert (
        page_controller.job_runner.request("sample_now") == "" and samples in page_controller.page_state("mini").status
    )
    steps.release()
    _until(lambda: samples not in page_controller.page_state("mini").status)
    assert page_controller.job_runner.request("cancel") == "" and cancel in page_controller.page_state("mini").status
    assert page_controller.job_runner.request("cancel") == "" and stop in page_controller.page_state("mini").status
    steps.release()
    assert jobs.current.wait(30)
    status = page_controller.page_state("mini").status
    assert not any(text in status for text in (samples, cancel, stop))
    assert "Nothing is running" in page_controller.job_runner.request("save_now")


def _until(holds):
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("the condition never became true")


def test_a_failed_run_is_shown_until_a_check_passes(page_controller, mini, subject_concepts, done, tmp_path):
    done(page_controller.create("other", "Embedded mini model", {}))
    concepts = [concept_values(concept) for concept in read_concepts(subject_concepts)[0]]
    lost = [{**concepts[0], "instance_data_dir": str(tmp_path / "moved")}]
    done(page_controller.train("mini", {"resolution": 64}, lost))
    failed = page_controller.page_state("mini").status
    assert "moved" in failed and 'href="#db_c1_instance_data_dir"' in failed
    assert "moved" not in page_controller.page_state("other").status
    page_controller.check("other", {"resolution": 64}, concepts)
    page_controller.check("mini", {"resolution": 64}, lost)  # neither another model nor a check that fails
    assert page_controller.page_state("mini").status == failed
    page_controller.check("mini", {"resolution": 64}, concepts)
    assert "moved" not in page_controller.page_state("mini").status
    done(page_controller.train("mini", {"resolution": 64}, lost))
    assert "moved" in page_controller.page_state("mini").status


def test_chart_and_samples_of_the_training_stay_after_generate_ckpt(page_controller, mini, done, tmp_path):
    def work(controls, events):
        for step in (1, 2, 3):
            events.send(Step(step, 3, 0, 1, 0.1 * step, None, 1e-4, 0.1, None))
        sample = tmp_path / "sample.png"
        sample.touch()
        events.send(PreviewSaved(str(sample), "a toy", 1, 3))
        events.send(FileSaved("lora", str(mini.folders.loras / "mini_3.safetensors"), "verified"))
        events.send(Ended("done", "Training finished."))

    done(page_controller.job_runner.start("train", "mini", work, model="mini", log_folder=mini.logging))
    trained = page_controller.page_state("mini")
    assert "<polyline" in trained.chart and trained.samples
    assert f"add <code>{html.escape('<lora:mini_3:1>')}</code> to a prompt" in trained.status
    done(page_controller.generate_checkpoint("mini", "none", {}))
    after = page_controller.page_state("mini")
    assert (after.chart, after.samples) == (trained.chart, trained.samples)
    [checkpoint] = mini.folders.checkpoints.glob("*.safetensors")
    assert "Use it now: choose the checkpoint" in after.status and str(checkpoint) in after.status
    assert after.files.index(checkpoint.name) < after.files.index("mini_3.safetensors")


def test_an_unexpected_error_is_one_line_without_a_traceback(page_controller, mini):
    def work(controls, events):
        raise RuntimeError("first\nTraceback (most recent call last):\n  File x")

    page_controller.job_runner.start("generate", "mini", work, model="mini")
    assert jobs.current.wait(30)
    status = page_controller.page_state("mini").status
    assert "Unexpected RuntimeError: first. " in status and "The traceback is in the console." in status
    assert "File x" not in status and status.count("<p") == 1
