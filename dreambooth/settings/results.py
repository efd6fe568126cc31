"""What comes of a run: previews, and the files that are kept."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import setting

SAMPLERS = ("DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep",
            "DEISMultistep")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Results:
    """A part of :class:`dreambooth.settings.run.Settings`."""

    # fmt: off
    scheduler: str = setting("DDIM", "Image Generation", "Sampler",
        "Draws previews and samples.", choices=SAMPLERS)
    sanity_prompt: str = setting("", "Image Generation", "Sanity sample prompt",
        "Drawn with every preview, to see whether the rest of the model is still whole.")
    sanity_seed: int = setting(420420, "Image Generation", "Sanity sample seed",
        "Seed of the sanity sample.", low=-1, high=2**32 - 1)

    custom_model_name: str = setting("", "General", "Custom model name",
        "Name of the files that are made; empty: the model's name.", tab="Saving")
    save_thumbnail: bool = setting(False, "General", "Put the last sample into the file",
        "As the picture that programs show beside it. Whoever gets the file sees it.", tab="Saving")
    half_model: bool = setting(False, "Checkpoints", "Half model",
        "Write checkpoints in half precision.", tab="Select")
    use_subdir: bool = setting(False, "Checkpoints", "Save checkpoint to subdirectory",
        "Put checkpoints into a folder with the model's name.", tab="Select")
    save_ema: bool = setting(True, "General", "Save EMA weights to generated models",
        "Checkpoints carry the EMA weights beside the trained ones.", applies="use_ema and not infer_ema",
        tab="Saving")
    infer_ema: bool = setting(False, "General", "Use EMA weights for inference",
        "Previews and checkpoints use the EMA weights in place of the trained ones.", applies="use_ema", tab="Saving")
    save_ckpt_during: bool = setting(False, "Checkpoints", "Generate a checkpoint when saving during training",
        "As often as weights are saved, see Intervals.", applies="not use_lora", tab="Saving")
    save_ckpt_after: bool = setting(True, "Checkpoints", "Generate a checkpoint when training completes",
        "The finished model, in the list of checkpoints.", applies="not use_lora", tab="Saving")
    save_ckpt_cancel: bool = setting(False, "Checkpoints", "Generate a checkpoint when training is canceled",
        "Also of a run that was cancelled.", applies="not use_lora", tab="Saving")
    save_lora_during: bool = setting(True, "LoRA", "Generate LoRA weights when saving during training",
        "As often as weights are saved, see Intervals.", applies="use_lora", tab="Saving")
    save_lora_after: bool = setting(True, "LoRA", "Generate LoRA weights when training completes",
        "The finished LoRA, in the list of LoRAs.", applies="use_lora", tab="Saving")
    save_lora_cancel: bool = setting(False, "LoRA", "Generate LoRA weights when training is canceled",
        "Also of a run that was cancelled.", applies="use_lora", tab="Saving")
    save_state_during: bool = setting(False, "Diffusion Weights", "Save a snapshot when saving during training",
        "A snapshot holds all that is needed to go on exactly where it was made.", tab="Saving")
    save_state_after: bool = setting(False, "Diffusion Weights", "Save a snapshot when training completes",
        "To add epochs later as if the run had never ended.", tab="Saving")
    save_state_cancel: bool = setting(True, "Diffusion Weights", "Save a snapshot when training is canceled",
        "So that a run that was stopped can go on.", tab="Saving")
    snapshots_to_keep: int = setting(2, "Diffusion Weights", "Snapshots to keep",
        "Older ones are removed after a new one is whole; 0: keep all.", low=0, high=1000, step=1, tab="Saving")
    # fmt: on
