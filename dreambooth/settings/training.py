"""How a run goes: what learns, for how long, from how much at once, how fast, on what pictures and captions."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import setting

OPTIMIZERS = (
    "Torch AdamW", "8bit AdamW", "Paged 8bit AdamW", "Lion", "8bit Lion", "Paged 8bit Lion", "Tiger", "Adafactor",
    "CAME", "SGD Nesterov", "8bit SGD", "AdamW Dadaptation", "Adan Dadaptation", "Lion Dadaptation", "SGD Dadaptation",
    "Prodigy", "Schedule-Free AdamW",
)  # fmt: skip
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "linear_with_warmup", "cosine", "cosine_with_restarts",
                "cosine_annealing", "cosine_annealing_with_restarts", "polynomial", "rex", "adafactor")  # fmt: skip
BUCKET_RULES = ("area", "kohya", "one size")
LORA_TYPES = ("LoRA", "LoHa", "LoKr")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A part of :class:`dreambooth.settings.run.Settings`."""

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
    # fmt: on
