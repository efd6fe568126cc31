"""Settings of previews and saved files."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import setting

SAMPLERS = ("DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep",
            "DEISMultistep")  # fmt: skip
SAMPLER_ALIASES = {
    "euler": "EulerDiscrete", "eulera": "EulerAncestralDiscrete", "eulerancestral": "EulerAncestralDiscrete",
    "dpm++2m": "DPMSolverMultistep", "dpmsolver++": "DPMSolverMultistep", "unipc": "UniPCMultistep",
    "deis": "DEISMultistep",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Results:
    """A part of :class:`dreambooth.settings.run.Settings`."""

    # fmt: off
    scheduler: str = setting("DDIM", "Image Generation", "Sampler",
        "Sampling method of previews, samples and class images.", choices=SAMPLERS, aliases=SAMPLER_ALIASES)
    preview_model: str = setting("", "Image Generation", "Preview model",
        "Name of another model of the same family to generate a LoRA's previews with, such as one of Z-Image-Turbo. "
        "It is loaded for each preview. Empty uses the model that is trained.", applies="use_lora", advanced=True)
    sanity_prompt: str = setting("", "Image Generation", "Sanity sample prompt",
        "Generated with every preview, to check that other subjects still look right.")
    sanity_seed: int = setting(420420, "Image Generation", "Sanity sample seed",
        "Seed of the sanity sample. -1 uses the training seed.", low=-1, high=2**32 - 1)

    custom_model_name: str = setting("", "General", "Custom model name",
        "Name of the saved checkpoints and LoRAs. Empty uses the model's name.", file_name=True, tab="Saving")
    save_thumbnail: bool = setting(False, "General", "Embed last sample",
        "Embed the last sample as a thumbnail in saved files. Anyone who receives the file can see it.", tab="Saving")
    half_model: bool = setting(False, "Checkpoints", "Half model",
        "Save checkpoints in fp16, which halves their size.", tab="Select")
    use_subdir: bool = setting(False, "Checkpoints", "Save checkpoint to subdirectory",
        "Save checkpoints in a subfolder with the model's name.", tab="Select")
    save_ema: bool = setting(True, "General", "Save EMA weights to generated models",
        "Include the EMA weights in checkpoints, next to the trained ones.", applies="use_ema and not infer_ema",
        tab="Saving")
    infer_ema: bool = setting(False, "General", "Use EMA weights for inference",
        "Previews and checkpoints use the EMA weights instead of the trained ones.", applies="use_ema", tab="Saving")
    save_ckpt_during: bool = setting(False, "Checkpoints", "Generate a checkpoint when saving during training",
        "Save a checkpoint at each save interval (see Intervals).", applies="not use_lora", tab="Saving")
    save_ckpt_after: bool = setting(True, "Checkpoints", "Generate a checkpoint when training completes",
        "Save the finished model to the WebUI's checkpoint folder.", applies="not use_lora", tab="Saving")
    save_ckpt_cancel: bool = setting(False, "Checkpoints", "Generate a checkpoint when training is canceled",
        "Save a checkpoint when a run is canceled.", applies="not use_lora", tab="Saving")
    save_lora_during: bool = setting(True, "LoRA", "Generate LoRA weights when saving during training",
        "Save a LoRA at each save interval (see Intervals).", applies="use_lora", tab="Saving")
    save_lora_after: bool = setting(True, "LoRA", "Generate LoRA weights when training completes",
        "Save the finished LoRA to the WebUI's LoRA folder.", applies="use_lora", tab="Saving")
    save_lora_cancel: bool = setting(False, "LoRA", "Generate LoRA weights when training is canceled",
        "Save a LoRA when a run is canceled.", applies="use_lora", tab="Saving")
    save_state_during: bool = setting(False, "Diffusion Weights", "Save a snapshot when saving during training",
        "Save a snapshot at each save interval. A snapshot holds everything needed to resume exactly from there.",
        tab="Saving")
    save_state_after: bool = setting(False, "Diffusion Weights", "Save a snapshot when training completes",
        "Save a snapshot at the end, to add epochs later as if the run had never ended.", tab="Saving")
    save_state_cancel: bool = setting(True, "Diffusion Weights", "Save a snapshot when training is canceled",
        "Save a snapshot when a run is canceled, so that it can be resumed.", tab="Saving")
    snapshots_to_keep: int = setting(2, "Diffusion Weights", "Snapshots to keep",
        "Number of snapshots to keep, of the current run and of abandoned branches; older ones are deleted after a new "
        "one is complete. 0 keeps all; automatic ones don't count.",
        low=0, high=1000, step=1, tab="Saving")
    # fmt: on
