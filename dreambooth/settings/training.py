"""Every setting of a training run, declared once. Names are the keys of db_config.json.

A setting stands here only when it has an effect that can be measured; the tests go through all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared, setting

OPTIMIZERS = (
    "Torch AdamW", "8bit AdamW", "Paged 8bit AdamW", "Lion", "8bit Lion", "Paged 8bit Lion", "Tiger", "Adafactor",
    "CAME", "SGD Nesterov", "8bit SGD", "AdamW Dadaptation", "Adan Dadaptation", "Lion Dadaptation", "SGD Dadaptation",
    "Prodigy", "Schedule-Free AdamW",
)  # fmt: skip
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "linear_with_warmup", "cosine", "cosine_with_restarts",
                "cosine_annealing", "cosine_annealing_with_restarts", "polynomial", "rex", "adafactor")  # fmt: skip
LOSSES = ("l2", "huber", "smooth_l1", "l1")
HUBER_SCHEDULES = ("snr", "exponential", "constant")
BUCKET_RULES = ("area", "kohya", "one size")
LORA_TYPES = ("LoRA", "LoHa", "LoKr")
SAMPLERS = ("DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep",
            "DEISMultistep")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the person chose. Immutable: a run works on the values it started with."""

    # fmt: off
    use_lora: bool = setting(False, "General", "Use LoRA",
        "Train a small adapter beside the frozen model instead of the model itself.")
    train_unet: bool = setting(True, "General", "Train UNET",
        "Off: only the text encoder learns.")
    stop_text_encoder: float = setting(1.0, "General", "Step ratio of text encoder training",
        "Share of all steps in which the text encoder is trained too; 0 leaves it as it is.",
        low=0, high=1, step=0.05)
    seed: int = setting(420420, "General", "Training seed",
        "Order of pictures, noise and timesteps follow from this number and the step. -1: a new one for each run.",
        low=-1, high=2**31 - 1)

    num_train_epochs: int = setting(100, "Intervals", "Training steps per image (epochs)",
        "How often each picture is seen.", low=1, high=100_000, step=1)
    max_train_steps: int = setting(0, "Intervals", "Maximum training steps",
        "Stop after this many optimizer steps even if epochs are left; 0: no limit.", low=0, high=10_000_000, step=1)
    save_embedding_every: int = setting(25, "Intervals", "Save model frequency (epochs)",
        "Save weights every so many epochs, as chosen under Saving; 0: only at the end.", low=0, high=100_000, step=1)
    save_preview_every: int = setting(5, "Intervals", "Save preview(s) frequency (epochs)",
        "Draw the sample prompts every so many epochs; 0: only at the end.", low=0, high=100_000, step=1)
    save_every_steps: int = setting(0, "Intervals", "Save model frequency (steps)",
        "The same in optimizer steps of this run; 0: as the epochs say.", low=0, high=10_000_000, step=1,
        advanced=True)
    preview_every_steps: int = setting(0, "Intervals", "Save preview(s) frequency (steps)",
        "The same in optimizer steps of this run; 0: as the epochs say.", low=0, high=10_000_000, step=1,
        advanced=True)
    validation_every: int = setting(0, "Intervals", "Validation frequency (steps)",
        "Measure the loss on held-out pictures (see Concepts), else on the training pictures, every so many optimizer "
        "steps, always with the same noise; the best snapshot is kept. 0: never.", low=0, high=10_000_000, step=1)
    validation_share: float = setting(0.0, "Intervals", "Share of pictures held out",
        "This part of each concept's pictures is not trained, only used for validation; a concept with a validation "
        "folder holds none out.", low=0, high=0.5, step=0.05, applies="validation_every > 0", advanced=True)
    autosave_minutes: float = setting(0.0, "Intervals", "Autosave (minutes)",
        "Make a snapshot every so many minutes, so that a crash costs no more than that; 0: never. Snapshots to keep "
        "counts these too.", low=0, high=100_000)
    epoch_pause_frequency: int = setting(0, "Intervals", "Pause after N epochs",
        "Let the GPU rest every so many epochs; 0: never.", low=0, high=100_000, step=1, advanced=True)
    epoch_pause_time: int = setting(0, "Intervals", "Amount of time to pause between epochs (s)",
        "Length of that rest; Resume ends it early.", low=0, high=86_400, step=1,
        applies="epoch_pause_frequency > 0", advanced=True)

    train_batch_size: int = setting(1, "Batching", "Batch size",
        "Instance pictures per forward pass; with prior preservation as many class pictures go with them.",
        low=1, high=256, step=1)
    sample_batch_size: int = setting(1, "Batching", "Class batch size",
        "Class images that are drawn together, see Concepts.", low=1, high=256, step=1, advanced=True)
    gradient_accumulation_steps: int = setting(1, "Batching", "Gradient accumulation steps",
        "Batches whose gradients are averaged before the weights move.", low=1, high=1024, step=1)
    gradient_checkpointing: bool = setting(True, "Batching", "Gradient checkpointing",
        "Recompute activations in the backward pass: much less memory, about a quarter more time.")
    gradient_set_to_none: bool = setting(True, "Batching", "Set gradients to none when zeroing",
        "Frees the gradients' memory between steps.", advanced=True)
    max_grad_norm: float = setting(1.0, "Batching", "Maximum gradient norm",
        "Longer gradients are shortened to this length; 0: no limit.", low=0, high=1000, step=0.1, advanced=True)
    tenc_grad_clip_norm: float = setting(0.0, "Batching", "Text encoder maximum gradient norm",
        "A limit of its own for the text encoder; 0: it shares the limit above.",
        low=0, high=128, step=0.25, applies="stop_text_encoder > 0", advanced=True)

    learning_rate: float = setting(2e-6, "Learning Rate", "Learning rate",
        "Of the unet in full training.", low=0, high=1, applies="not use_lora and lr_scheduler != 'adafactor'")
    txt_learning_rate: float = setting(1e-6, "Learning Rate", "Text encoder learning rate",
        "Of the text encoder in full training.", low=0, high=1,
        applies="not use_lora and stop_text_encoder > 0 and lr_scheduler != 'adafactor'")
    lora_learning_rate: float = setting(1e-4, "Learning Rate", "LoRA UNET learning rate",
        "Of the unet's adapters.", low=0, high=1, applies="use_lora and lr_scheduler != 'adafactor'")
    lora_txt_learning_rate: float = setting(5e-5, "Learning Rate", "LoRA text encoder learning rate",
        "Of the text encoder's adapters.", low=0, high=1,
        applies="use_lora and stop_text_encoder > 0 and lr_scheduler != 'adafactor'")
    lr_scheduler: str = setting("constant_with_warmup", "Learning Rate", "Learning rate scheduler",
        "How the rate changes over the run. linear, cosine, polynomial and rex fall to zero at the end; annealing "
        "falls to the minimum and rises or restarts; adafactor leaves it to the optimizer of that name.",
        choices=LR_SCHEDULES)
    lr_warmup_steps: float = setting(0.0, "Learning Rate", "Learning rate warm-up steps",
        "Optimizer steps until the full rate is reached; below 1: that share of the run.", low=0, high=1_000_000,
        applies="lr_scheduler not in ('constant', 'linear', 'cosine_annealing', 'cosine_annealing_with_restarts', "
        "'adafactor')")
    learning_rate_min: float = setting(1e-6, "Learning Rate", "Minimum learning rate",
        "What annealing falls to.", low=0, high=1,
        applies="lr_scheduler in ('cosine_annealing', 'cosine_annealing_with_restarts')")
    lr_cycles: int = setting(1, "Learning Rate", "Number of hard resets",
        "How often the rate falls from full to zero in a run.", low=1, high=1000, step=1,
        applies="lr_scheduler == 'cosine_with_restarts'")
    lr_factor: float = setting(1.0, "Learning Rate", "Constant/linear starting factor",
        "The rate starts at this share and is full at the scale position: constant jumps there, linear rises to it.",
        low=0, high=1, step=0.05, applies="lr_scheduler in ('constant', 'linear')")
    lr_power: float = setting(1.0, "Learning Rate", "Polynomial power",
        "1 falls evenly; more falls sooner.", low=0.1, high=10, step=0.1, applies="lr_scheduler == 'polynomial'")
    lr_scale_pos: float = setting(0.5, "Learning Rate", "Scale position",
        "Share of the run until the full rate (constant, linear) or the minimum (annealing) is reached.",
        low=0, high=1, step=0.05,
        applies="lr_scheduler in ('constant', 'linear') and lr_factor < 1 or "
        "lr_scheduler in ('cosine_annealing', 'cosine_annealing_with_restarts')")

    lora_type: str = setting("LoRA", "LoRA", "Adapter type",
        "LoRA: known to every program. LoHa: more variety for its size. LoKr: very small files. The last two are for "
        "WebUIs.", choices=LORA_TYPES, applies="use_lora")
    lora_start: str = setting("", "LoRA", "Start from LoRA",
        "A LoRA to go on from, of the type, ranks and alphas that are set here: its path, or its name in the folder of "
        "LoRAs. Empty: from nothing.", applies="use_lora", advanced=True)
    lora_unet_rank: int = setting(4, "LoRA", "LoRA UNET rank",
        "Size of the unet's adapters: 4 to 16 for a subject, more for a style.",
        low=1, high=1024, step=1, applies="use_lora")
    lora_txt_rank: int = setting(4, "LoRA", "LoRA text encoder rank",
        "Size of the text encoder's adapters.", low=1, high=1024, step=1,
        applies="use_lora and stop_text_encoder > 0")
    lora_unet_alpha: float = setting(0.0, "LoRA", "LoRA UNET alpha",
        "The adapter counts alpha / rank; 0: as the rank, which is 1 to 1.", low=0, high=4096, applies="use_lora")
    lora_txt_alpha: float = setting(0.0, "LoRA", "LoRA text encoder alpha",
        "As above, for the text encoder.", low=0, high=4096, applies="use_lora and stop_text_encoder > 0")
    lora_unet_dropout: float = setting(0.0, "LoRA", "LoRA UNET dropout",
        "Share of the unet's adapters that is left out of each step, drawn anew, against learning by heart; 0.1 is "
        "usual with many epochs. LoRA drops between its factors, the others what goes into them.",
        low=0, high=0.9, step=0.05, applies="use_lora and train_unet", advanced=True)
    lora_txt_dropout: float = setting(0.0, "LoRA", "LoRA text encoder dropout",
        "As above, for the text encoder.",
        low=0, high=0.9, step=0.05, applies="use_lora and stop_text_encoder > 0", advanced=True)
    use_lora_extended: bool = setting(False, "LoRA", "Use LoRA Extended (LoCon)",
        "Adapters also beside the unet's convolutions: they learn texture and style better; larger files.",
        applies="use_lora and train_unet")
    lora_conv_rank: int = setting(4, "LoRA", "LoRA convolution rank",
        "Size of the adapters beside 3x3 convolutions.", low=1, high=1024, step=1,
        applies="use_lora and train_unet and use_lora_extended")
    lora_conv_alpha: float = setting(0.0, "LoRA", "LoRA convolution alpha",
        "As above, for the convolutions.", low=0, high=4096,
        applies="use_lora and train_unet and use_lora_extended")
    lora_dora: bool = setting(False, "LoRA", "DoRA",
        "Learn lengths and directions of the weights apart: nearer to full training, slower. For WebUIs, as LoHa and "
        "LoKr are.", applies="use_lora")
    lokr_factor: int = setting(0, "LoRA", "LoKr factor",
        "Side of the small matrix; a larger one makes smaller files. 0: as near to square as it goes.",
        low=0, high=1024, step=1, applies="use_lora and lora_type == 'LoKr'", advanced=True)
    lora_weight: float = setting(1.0, "LoRA", "LoRA weight when merging",
        "Strength with which Generate Ckpt adds a LoRA to the unet.", low=-4, high=4, step=0.05, tab="Saving")
    lora_txt_weight: float = setting(1.0, "LoRA", "LoRA text weight when merging",
        "The same for the text encoder.", low=-4, high=4, step=0.05, tab="Saving")

    resolution: int = setting(512, "Image Processing", "Max resolution",
        "Pictures are scaled to buckets of about this many pixels squared.", low=64, high=2048, step=64)
    resolution_height: int = setting(0, "Image Processing", "Height, where it is another",
        "Makes the resolution a shape of so many pixels' height; 0: square. Buckets have its area, the one size its "
        "shape.", low=0, high=2048, step=64, applies="bucket_rule != 'area'", advanced=True)
    bucket_rule: str = setting("area", "Image Processing", "Bucket rule",
        "area: shapes up to 2:1, the nearest by ratio. kohya: shapes, choice and crop as kohya's scripts have them, so "
        "that runs compare. one size: every picture is cropped to the resolution.", choices=BUCKET_RULES,
        advanced=True)
    bucket_step: int = setting(64, "Image Processing", "Bucket step",
        "Sides of buckets are multiples of this many pixels.", low=8, high=256, step=8,
        applies="bucket_rule != 'one size'", advanced=True)
    bucket_min_side: int = setting(0, "Image Processing", "Bucket minimum side",
        "No bucket is narrower than this many pixels; 0: as narrow as 2:1 makes it, or half the resolution by kohya's "
        "rule.", low=0, high=2048, step=64, applies="bucket_rule != 'one size'", advanced=True)
    bucket_max_side: int = setting(0, "Image Processing", "Bucket maximum side",
        "No bucket is longer than this many pixels; 0: as long as 2:1 makes it, or twice the resolution by kohya's "
        "rule.", low=0, high=4096, step=64, applies="bucket_rule != 'one size'", advanced=True)
    bucket_no_upscale: bool = setting(False, "Image Processing", "Don't enlarge pictures",
        "Small pictures get buckets of their own size instead of being enlarged to the resolution.",
        applies="bucket_rule != 'one size'", advanced=True)
    hflip: bool = setting(False, "Image Processing", "Apply horizontal flip",
        "Mirror half of all showings, drawn anew each time. Not for faces, text or anything with a left and a right.")
    dynamic_img_norm: bool = setting(False, "Image Processing", "Dynamic image normalization",
        "Give each picture mean 0 and deviation 1 in place of its own brightness and contrast. The VAE wasn't made for "
        "that.", advanced=True)

    optimizer: str = setting("Torch AdamW", "Tuning", "Optimizer",
        "8bit ones take the least memory and need bitsandbytes and a GPU. Dadaptation and Prodigy find the learning "
        "rate themselves: set it to 1. Most others need pytorch-optimizer.", choices=OPTIMIZERS)
    optimizer_args: str = setting("", "Tuning", "Optimizer arguments",
        "More arguments of the optimizer's own, such as betas=(0.9, 0.99), eps=1e-6.", advanced=True)
    mixed_precision: str = setting("auto", "Tuning", "Mixed precision",
        "auto: bf16 where the GPU computes it, else fp16; none on a CPU.", choices=("auto", "no", "fp16", "bf16"))
    full_mixed_precision: bool = setting(False, "Tuning", "Full mixed precision",
        "Keep what is trained in bf16 too, rounded by lot so that small steps are not lost: full training in less than "
        "half the memory. Needs mixed precision bf16 and Torch AdamW.", applies="not use_lora", advanced=True)
    attention: str = setting("default", "Tuning", "Memory attention",
        "default is PyTorch's own, fast and frugal on most GPUs; xformers where it is installed; sliced is slower and "
        "frugal without either.", choices=("default", "xformers", "sliced"), advanced=True)
    deterministic: bool = setting(False, "Tuning", "Deterministic",
        "Only algorithms that give the same bits each time, also on a GPU: slower. On a CPU it always is so.",
        advanced=True)
    weight_decay: float = setting(0.01, "Tuning", "Weight decay",
        "Pull of the unet's weights towards zero.", low=0, high=1, step=0.001)
    tenc_weight_decay: float = setting(0.01, "Tuning", "Text encoder weight decay",
        "As above, for the text encoder.", low=0, high=1, step=0.001, applies="stop_text_encoder > 0")
    clip_skip: int = setting(1, "Tuning", "Clip skip",
        "Which layer of the text encoder is read, counted from the last one (1).", low=1, high=12, step=1)
    pad_tokens: bool = setting(True, "Tuning", "Pad tokens",
        "Fill captions up to whole chunks of 75 tokens, as WebUIs do. Off: a batch is as long as its longest caption.",
        advanced=True)
    strict_tokens: bool = setting(False, "Tuning", "Strict tokens",
        "Give each part of a caption between , ; . ! ? its own start and end, so that tags don't run into each other. "
        "WebUIs don't read prompts that way.", advanced=True)
    max_token_length: int = setting(75, "Tuning", "Max token length",
        "Longer captions are read in several chunks of 75 tokens, each with start and end, as WebUIs do (but cut "
        "wherever it falls); what is beyond is lost.", choices=(75, 150, 225, 300))
    weighted_captions: bool = setting(False, "Tuning", "Weighted captions",
        "Read (word), (word:1.2) and [word] in captions and previews as WebUIs do; \\( is a bracket in either case.",
        advanced=True)
    shuffle_tags: bool = setting(True, "Tuning", "Shuffle tags",
        "Show the parts between commas in another order each time, so that their order teaches nothing.")
    keep_tokens: int = setting(1, "Tuning", "Keep tags",
        "So many tags at the start stay where they are: 1 for the instance token.",
        low=0, high=255, step=1, applies="shuffle_tags or tag_dropout > 0")
    tag_dropout: float = setting(0.0, "Tuning", "Tag dropout",
        "Share of the other tags that is left out, drawn anew each time.", low=0, high=1, step=0.05, advanced=True)
    caption_dropout: float = setting(0.0, "Tuning", "Caption dropout",
        "Share of showings with an empty caption: keeps the model able to draw without a prompt.",
        low=0, high=1, step=0.05, advanced=True)
    freeze_clip_normalization: bool = setting(False, "Tuning", "Freeze CLIP normalization layers",
        "Leave the text encoder's normalisation layers as they are.",
        applies="not use_lora and stop_text_encoder > 0", advanced=True)
    freeze_spectral_norm: bool = setting(False, "Tuning", "Freeze spectral norm",
        "Scale each weight of what is trained back to its spectral norm after every step: steadier at high rates, the "
        "model keeps more of what it knew, and learns less.",
        applies="not use_lora and not full_mixed_precision", advanced=True)
    use_ema: bool = setting(False, "Tuning", "Use EMA",
        "Keep a slowly moving average of the unet; it often draws cleaner than the last step.",
        applies="not use_lora")
    ema_decay: float = setting(0.9999, "Tuning", "EMA decay",
        "How slowly the average moves, once warmed up.", low=0, high=0.999999, applies="use_ema", advanced=True)
    ema_precision: str = setting("fp32", "Tuning", "EMA precision",
        "bf16 halves the average's memory; it is rounded by lot, so that small changes are not lost. Previews with it "
        "are drawn in bf16 too.", choices=("fp32", "bf16"), applies="use_ema", advanced=True)
    ema_on_cpu: bool = setting(False, "Tuning", "Keep EMA on the CPU",
        "Spares the GPU the average's 4 bytes (2 in bf16) for each of the unet's weights; a little time each step.",
        applies="use_ema", advanced=True)

    offset_noise: float = setting(0.0, "Objective", "Offset noise",
        "Share of noise that is constant over the picture; about 0.05 to 0.1 allows darker and brighter pictures.",
        low=-1, high=1, step=0.01)
    multires_noise_iterations: int = setting(0, "Objective", "Multi-resolution noise levels",
        "Adds ever coarser noise, which teaches light and dark as offset noise does, and large shapes; 6 is usual, "
        "0: none.", low=0, high=10, step=1)
    multires_noise_discount: float = setting(0.3, "Objective", "Multi-resolution noise discount",
        "How much each level counts of the one before.", low=0, high=1, step=0.05,
        applies="multires_noise_iterations > 0")
    input_perturbation: float = setting(0.0, "Objective", "Input perturbation",
        "Share of noise that the unet sees but is not asked for, against its own small mistakes; 0.1 is usual.",
        low=0, high=1, step=0.01, advanced=True)
    min_timestep: int = setting(0, "Objective", "Earliest timestep",
        "Noise is drawn from this timestep on; higher leaves fine detail as it is.",
        low=0, high=999, step=1, advanced=True)
    max_timestep: int = setting(1000, "Objective", "Latest timestep",
        "And below this one; lower leaves composition as it is.", low=1, high=1000, step=1, advanced=True)
    zero_terminal_snr: bool = setting(False, "Objective", "Zero terminal SNR",
        "Train down to pure noise, for really dark and bright pictures. For models that predict v; whoever draws with "
        "the result must know of it.", advanced=True)
    loss_type: str = setting("l2", "Objective", "Loss",
        "l2: the mean square. huber, smooth_l1 and l1 give less weight to what is far off, such as damaged pictures.",
        choices=LOSSES)
    huber_schedule: str = setting("snr", "Objective", "Huber schedule",
        "How Huber's threshold changes with the timestep.", choices=HUBER_SCHEDULES,
        applies="loss_type in ('huber', 'smooth_l1')", advanced=True)
    huber_c: float = setting(0.1, "Objective", "Huber threshold",
        "Its smallest value: errors below it count as squares.", low=0.0001, high=1, step=0.01,
        applies="loss_type in ('huber', 'smooth_l1')", advanced=True)
    min_snr_gamma: float = setting(0.0, "Objective", "Min SNR gamma",
        "Timesteps with little noise count less: faster and steadier; 5 is usual, 0: all count the same.",
        low=0, high=20, step=0.1)
    debiased_estimation: bool = setting(False, "Objective", "Debiased estimation",
        "Timesteps with much noise count more: structure before detail.")
    use_dream: bool = setting(False, "Objective", "Use DREAM",
        "Train on what the unet would see after its own mistakes: sharper, a third more time.")
    dream_detail_preservation: float = setting(0.5, "Objective", "DREAM detail preservation",
        "Higher corrects less and keeps more detail.", low=0, high=10, step=0.05, applies="use_dream")
    masked_loss: bool = setting(False, "Objective", "Masked loss",
        "Learn only what is white in the mask beside a picture (NAME_mask.png), or visible by its own transparency.")
    unmasked_weight: float = setting(0.1, "Objective", "Weight outside the mask",
        "How much the rest of a masked picture counts.", low=0, high=1, step=0.05, applies="masked_loss")

    prior_loss_weight: float = setting(0.75, "Prior Loss", "Prior loss weight",
        "Weight of the class pictures, which keep the model from forgetting its class.",
        low=0, high=10, step=0.01, applies="split_loss")
    prior_loss_scale: bool = setting(False, "Prior Loss", "Scale prior loss",
        "Let the weight fall over the epochs.", applies="split_loss")
    prior_loss_target: int = setting(100, "Prior Loss", "Prior loss target",
        "The epoch in which the weight has come down to its minimum.", low=1, high=100_000, step=1,
        applies="split_loss and prior_loss_scale")
    prior_loss_weight_min: float = setting(0.1, "Prior Loss", "Minimum prior loss weight",
        "What the weight falls to.", low=0, high=10, step=0.01, applies="split_loss and prior_loss_scale")
    split_loss: bool = setting(True, "Prior Loss", "Calculate split loss",
        "Instance and class pictures each have their own mean. Off: one mean over all of them, without weight.",
        advanced=True)
    disable_class_matching: bool = setting(False, "Prior Loss", "Disable class matching",
        "Take the class pictures as they are: none is drawn, however many are asked for.", advanced=True)

    train_imagic: bool = setting(False, "Imagic", "Train Imagic",
        "Edit one picture by a text, its caption: first the text's embedding learns the picture, then the unet does. "
        "Previews and samples of that text draw the edit; other programs can't.", advanced=True)
    imagic_steps: int = setting(500, "Imagic", "Steps of the embedding",
        "For how long the embedding learns before the unet does.", low=0, high=100_000, step=1,
        applies="train_imagic", advanced=True)
    imagic_learning_rate: float = setting(1e-3, "Imagic", "Learning rate of the embedding",
        "Higher takes it further from the text.", low=0, high=1, applies="train_imagic", advanced=True)
    imagic_strength: float = setting(0.7, "Imagic", "Strength of the edit",
        "How far previews and samples go from the picture (0) to the text (1); 0.6 to 0.8 is usual.",
        low=0, high=2, step=0.05, applies="train_imagic", advanced=True)

    scheduler: str = setting("DDIM", "Image Generation", "Sampler",
        "Draws previews and samples.", choices=SAMPLERS)
    tomesd: float = setting(0.0, "Image Generation", "Token merging (ToMe)",
        "Share of the picture's tokens that previews and samples merge before attention: large ones come sooner, with "
        "less detail; 0.5 is usual, more than 0.75 merges no more. Not in training, nor for class images.",
        low=0, high=1, step=0.1, advanced=True)
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


SETTINGS = declared(Settings)
