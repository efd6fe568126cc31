"""A run that is paused, previewed, stopped and resumed has, bit for bit, the weights of an undisturbed one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from tests.training.conftest import tensors

LORA = {"use_lora": True, "seed": 5}
FULL = {"use_lora": False, "use_ema": True, "ema_precision": "bf16", "save_ckpt_after": False,
        "stop_text_encoder": 0.5, "seed": 5}  # fmt: skip
EPOCHS = {"num_train_epochs": 3, "gradient_accumulation_steps": 2, "lr_scheduler": "cosine", "offset_noise": 0.05}


LORA_BF16 = {**LORA, "mixed_precision": "bf16", "stop_text_encoder": 0.5, "gradient_set_to_none": False,
             "lora_unet_dropout": 0.2, "lora_txt_dropout": 0.2, "gradient_checkpointing": True}  # fmt: skip
LOHA = {**LORA, "lora_type": "LoHa", "lora_dora": True, "use_lora_extended": True, "lora_unet_dropout": 0.2}
# Tags are shuffled in all of them; here all that may vary does, with the text encoder frozen from the start.
VARIED = {**LORA, "stop_text_encoder": 0, "hflip": True, "tag_dropout": 0.3, "caption_dropout": 0.2,
          "pad_tokens": False, "weighted_captions": True}  # fmt: skip
RUNS = {
    "loha with dora": LOHA, "lora": LORA, "lora bf16, half the text encoder": LORA_BF16,
    "full with ema, half the text encoder": FULL, "varied": VARIED,
    "base in int8, half the text encoder": {**LORA_BF16, "base_precision": "int8"},
}  # fmt: skip


def trained_weights(outcome):
    """Trained weights, and the EMA weights if there are any."""
    averages = outcome.model.working / "ema_unet"
    files = averages.glob("*.safetensors") if averages.is_dir() else ()
    return {**outcome.weights(), **{f"average.{key}": t for path in files for key, t in tensors(path).items()}}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_disturbed_run_equals_undisturbed_run(train, mini, models_dir, created, settings):
    """Stopped after steps 1 and 4 of 6, each time with samples and a save requested, and paused after each."""
    import shutil

    left_alone = trained_weights(train(**settings, **EPOCHS))
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)

    def disturb(event, controls):
        if event["kind"] == "step" and event["step"] in (1, 4):
            controls.sample_now()
            controls.save_now()
            controls.cancel()
        if event["kind"] == "step" and event["step"] in (2, 5):
            controls.pause()
            controls.sample_now()
        if event["kind"] == "preview":
            controls.resume()

    for resume, stop_at in (("", 1), ("latest", 4)):
        stopped = train(resume=resume, on=disturb, **settings, **EPOCHS)
        assert (stopped.result.state, stopped.result.steps) == ("cancelled", stop_at)
    resumed = train(resume="latest", on=disturb, **settings, **EPOCHS)
    assert {step["epochs"] for step in resumed.of("step")} == {EPOCHS["num_train_epochs"]}
    assert "Resuming from step 4" in resumed.messages
    assert "differs from the original" not in resumed.messages
    assert resumed.of("preview"), "a preview was requested in between"
    weights = trained_weights(resumed)
    assert weights.keys() == left_alone.keys()
    assert all(torch.equal(weights[key], left_alone[key]) for key in weights)


def test_two_runs_in_one_process_do_not_leak_into_each_other(train, models_dir, created):
    import shutil

    def afresh():
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)

    alone = train(seed=5).digest()
    afresh()
    train(seed=6, mixed_precision="bf16", lora_unet_rank=2, optimizer="Torch AdamW", gradient_checkpointing=True)
    afresh()
    assert train(seed=5).digest() == alone


def test_resume_says_what_has_changed_since(train):
    train(on=lambda event, controls: event["kind"] == "step" and controls.cancel())
    resumed = train(resume="latest", lora_learning_rate=5e-4)
    assert "lora_learning_rate was 0.001 and is 0.0005" in resumed.messages


@pytest.mark.parametrize("used", [True, False], ids=["on", "off"])
def test_a_snapshot_of_removed_features_goes_on_and_says_so(train, mini, used):
    """Older snapshots hold their settings; with freeze_spectral_norm on, spectral norms as well."""
    full = {"use_lora": False, "save_ckpt_after": False}
    train(**full, on=lambda event, controls: event["kind"] == "step" and controls.cancel())
    (step,) = mini.snapshot_steps()
    folder = mini.snapshots / str(step)
    about = json.loads((folder / "snapshot.json").read_text())
    about["settings"] |= {"freeze_spectral_norm": used, "dynamic_img_norm": used, "tomesd": 0.5}
    if used:
        about["facts"]["plan"] = "one of normalized images"
        norms = {"spectral.norms": torch.ones(2), "spectral.vector.0": torch.ones(3)}
        save_file({**tensors(folder / "weights.safetensors"), **norms}, folder / "weights.safetensors")
    (folder / "snapshot.json").write_text(json.dumps(about))
    resumed = train(resume="latest", **full)
    assert resumed.error is None and resumed.result.state == "done"
    differs = [line for line in resumed.messages.splitlines() if "differs from the original" in line]
    assert len(differs) == (2 if used else 0)
    for key in ("freeze_spectral_norm", "dynamic_img_norm"):
        assert sum(f"{key} was on and no longer has an effect" in line for line in differs) == used


def test_resume_with_fewer_steps_per_epoch_goes_on(train):
    train(train_batch_size=1, on=lambda event, controls: event.get("step") == 4 and controls.cancel())
    resumed = train(resume="latest", train_batch_size=5)
    assert resumed.error is None
    assert "train_batch_size was 1 and is 5" in resumed.messages


def test_a_snapshot_of_an_earlier_run_does_not_roll_the_model_back(train):
    train(on=lambda event, controls: event["kind"] == "step" and controls.cancel())
    train(seed=9)
    assert "earlier run" in str(train(resume="latest").error)


def test_reasons_against_resuming_are_reported_together_before_the_run(train, mini, models_dir, created):
    import shutil

    from dreambooth.settings import ModelFolder

    train(on=lambda event, controls: event["kind"] == "step" and controls.cancel())
    refused = train(resume="latest", lora_unet_rank=8, stop_text_encoder=0, learning_rate_min=0.5, lr_warmup_steps=999)
    assert [p.split(" ")[0] for p in refused.error.problems] == [
        "lr_warmup_steps",
        "lora_unet_rank",
        "stop_text_encoder",
    ]
    assert "was trained with 4 and cannot be resumed with 8" in str(refused.error)
    assert not refused.of("step") and refused.of("phase")[-1]["name"] == "preflight"
    (step,) = mini.snapshot_steps()
    note = mini.snapshots / str(step) / "snapshot.json"
    about = json.loads(note.read_text())
    about["facts"]["computed"] = "another GPU in bf16"
    note.write_text(json.dumps(about))
    assert "it ran on another GPU in bf16 and now runs on cpu in" in train(resume="latest").messages
    other = ModelFolder(mini.folders, "other")
    shutil.copytree(created / "dreambooth" / "mini", other.root)
    manifest = other.source / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")  # as if it had been made of another file
    shutil.copytree(mini.snapshots, other.snapshots, dirs_exist_ok=True)
    with pytest.raises(UserError, match="another source checkpoint"):
        preflight(other, other.load(), resume="latest")


def test_cached_embeddings_of_another_precision_are_not_taken(train, mini):
    import shutil

    frozen = {"stop_text_encoder": 0, "seed": 5, "mixed_precision": "no", "shuffle_tags": False}
    alone = train(**frozen)
    shutil.rmtree(mini.cache)
    train(**{**frozen, "mixed_precision": "bf16"})
    assert train(**frozen).losses == alone.losses


def test_a_random_seed_is_settled_for_the_run_and_asked_for_again(train, mini):
    stopped = train(seed=-1, on=lambda event, controls: event["kind"] == "step" and controls.cancel())
    assert mini.load().settings.seed == -1
    resumed = train(resume="latest", seed=-1)
    assert "differs from the original" not in resumed.messages
    seeds = [line for line in f"{stopped.messages}\n{resumed.messages}".splitlines() if "Training seed" in line]
    assert len({line.strip() for line in seeds}) == 1


def test_resume_without_a_snapshot_is_refused(train):
    assert "no snapshot" in str(train(resume="latest").error)
