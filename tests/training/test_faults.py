"""Failures during a run: one line that says so, nothing lost, and training continues if possible."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from dreambooth.checkpoints.verify import Verification
from dreambooth.settings import Folders, ModelFolder
from dreambooth.training import results
from tests.training.conftest import short_run


@pytest.mark.parametrize("use_lora", [True, False])
def test_a_nan_loss_stops_the_run_and_damages_nothing(train, mini, use_lora):
    before = {p: p.read_bytes() for p in mini.working.rglob("*.safetensors")}
    rates = {"lora_learning_rate": 1, "lora_txt_learning_rate": 1, "learning_rate": 1, "txt_learning_rate": 1}
    rates |= {"lora_unet_alpha": 4096, "lora_txt_alpha": 4096}  # an adapter scaled by 1000 diverges at once
    outcome = train(use_lora=use_lora, num_train_epochs=200, max_grad_norm=0, mixed_precision="no", **rates)
    assert "became NaN" in str(outcome.error)
    assert "Lower the learning rate" in str(outcome.error)
    assert outcome.of("ended")[-1]["state"] == "failed"
    assert {p: p.read_bytes() for p in mini.working.rglob("*.safetensors")} == before
    assert not outcome.of("saved")
    held = [thing for thing in gc.get_objects() if type(thing).__name__ == "UNet2DConditionModel"]
    assert not held, "a reference to the error must not keep the model in memory"


def blocks(folder: Path):
    """A listener that puts a file where ``folder`` should be, once the preflight has found that all can be written."""
    blocked = []

    def block(event, controls):
        if event["kind"] == "phase" and event["name"] != "preflight" and not blocked:
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(exist_ok=True)
            folder.write_text("a file where the folder should be")
            blocked.append(folder)

    return block


def test_a_failed_preview_is_reported_and_training_continues(train, mini):
    outcome = train(save_preview_every=1, on=blocks(mini.samples))
    assert outcome.error is None
    assert "preview failed; training continues" in outcome.messages
    assert outcome.result.files


def test_a_failed_save_during_training_is_a_message_and_the_run_goes_on(train, mini):
    block = blocks(mini.folders.loras)

    def make_room(event, controls):
        block(event, controls)
        if event["kind"] == "message" and "Saving failed" in event["text"]:
            mini.folders.loras.unlink()

    outcome = train(save_embedding_every=1, on=make_room)
    assert outcome.error is None
    assert "Saving failed; training continues" in outcome.messages
    assert len(outcome.result.files) == 1


def test_no_checkpoint_is_made_of_weights_that_could_not_be_saved(
    created_embedded, models_dir, mini_checkpoint, concept
):
    model = ModelFolder(Folders(Path(shutil.copytree(created_embedded, models_dir))), "mini")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def let_no_large_file_be_written(event, controls):  # its UNet in float32 is larger than its checkpoint
        if event["kind"] == "step":
            resource.setrlimit(resource.RLIMIT_FSIZE, (mini_checkpoint.stat().st_size + 2**20, limits[1]))

    try:
        settings = {"use_lora": False, "max_train_steps": 1, "save_ckpt_after": True}
        outcome = short_run(model, concept, on=let_no_large_file_be_written, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Could not write" in str(outcome.error)
    assert not list(model.folders.checkpoints.glob("*"))


@pytest.mark.parametrize("use_lora", [True, False])
def test_a_saved_file_that_fails_verification_is_an_error(train, monkeypatch, use_lora):
    def verify(path, model):
        return Verification(path, not_finite=["conv_in.weight"])

    monkeypatch.setattr(results, "verify_lora" if use_lora else "verify_checkpoint", verify)
    outcome = train(use_lora=use_lora, save_ckpt_after=True, max_train_steps=1)
    assert "failed verification" in str(outcome.error) and "conv_in.weight" in str(outcome.error)
    assert outcome.of("ended")[-1]["state"] == "failed"


def test_cancel_ends_a_preview_in_its_middle(train):
    outcome = train(
        save_preview_every=1, on=lambda event, controls: event.get("name") == "preview" and controls.cancel()
    )
    assert outcome.result.state == "cancelled"
    assert not outcome.of("preview")
    assert "failed" not in outcome.messages


def test_save_now_saves_a_lora_in_any_case(train):
    outcome = train(
        save_lora_during=False,
        save_lora_after=False,
        on=lambda event, controls: event.get("step") == 1 and event["kind"] == "step" and controls.save_now(),
    )
    assert [event["what"] for event in outcome.of("saved")] == ["lora"]


def test_stop_now_in_the_last_step_is_no_finished_run(train):
    outcome = train(max_train_steps=1, on=lambda event, controls: event["kind"] == "step" and controls.stop_now())
    assert outcome.result.state == "cancelled"
    assert not outcome.of("saved")


def test_stop_now_saves_nothing_more(train):
    outcome = train(on=lambda event, controls: event["kind"] == "step" and controls.stop_now(), save_lora_cancel=True)
    assert outcome.result.state == "cancelled"
    assert not outcome.of("saved")


def test_settings_saved_while_it_trains_stay(train, mini):
    import dataclasses

    def edit(event, controls):
        if event["kind"] == "step" and event["step"] == 2:
            config = mini.load()
            mini.save(dataclasses.replace(config, settings=dataclasses.replace(config.settings, clip_skip=2)))

    train(on=edit)
    assert mini.load().settings.clip_skip == 2
    assert mini.load().info.revision > 0


def test_a_listener_that_fails_does_not_end_the_run(train):
    def fail(event, controls):
        raise BrokenPipeError

    assert train(on=fail).result.state == "done"


def test_the_text_encoder_alone_is_trained_to_the_end(train):
    outcome = train(train_unet=False, stop_text_encoder=0.3)
    assert outcome.error is None
    assert len(outcome.losses) == outcome.of("step")[-1]["total"]


def test_tracebacks_go_to_the_log(train, mini):
    train(save_preview_every=1, on=blocks(mini.samples))
    assert "Traceback" in (mini.logging / "log.txt").read_text()


def test_events_on_disk_are_those_that_were_sent(train):
    from dreambooth.jobs import latest_log, read_events

    outcome = train()
    path = latest_log(outcome.model.logging)
    assert list(read_events(path)) == outcome.events
    with path.open("a") as file:
        file.write('{"kind": "st')
    assert len(list(read_events(path))) == len(outcome.events)
    assert outcome.events[-1]["state"] == "done"


def test_a_corrupt_image_is_named_and_the_others_are_trained(train, images):
    broken = images / "instance" / "broken.png"
    broken.write_bytes((images / "instance" / "0.png").read_bytes()[:60])
    try:
        outcome = train(num_train_epochs=1)
    finally:
        os.unlink(broken)
    assert outcome.error is None and outcome.result.state == "done"
    messages = [event["text"] for event in outcome.of("message")]
    assert any("truncated" in text and "broken.png" in text for text in messages)


def test_nothing_is_overwritten(train):
    first = train(save_state_after=False)
    path = first.result.files[0]
    original = path.read_bytes()
    second = train(seed=9)
    assert second.result.files[0] != path
    assert path.read_bytes() == original


def test_results_that_could_not_be_saved_at_the_end_can_be_saved_later(train, mini):
    outcome = train(save_state_cancel=False, on=blocks(mini.folders.loras))
    assert outcome.error is not None
    assert "Your progress is in a snapshot" in outcome.messages
    mini.folders.loras.unlink()
    resumed = train(resume="latest", save_state_cancel=False)
    assert resumed.error is None
    assert resumed.result.files and not resumed.of("step")
