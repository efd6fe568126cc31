"""Settings of the training loop: trained components, intervals, batches, learning rates, adapters, images, captions."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import setting

OPTIMIZERS = (
    "Torch AdamW", "8bit AdamW", "Paged 8bit AdamW", "Lion", "8bit Lion", "Paged 8bit Lion", "Tiger", "Adafactor",
    "CAME", "SGD Nesterov", "8bit SGD", "AdamW Dadaptation", "Adan Dadaptation", "Lion Dadaptation", "SGD Dadaptation",
    "Prodigy", "Schedule-Free AdamW",
)  # fmt: skip
# They derive the update of a weight from the gradients of all weights.
GLOBAL_OPTIMIZERS = ("AdamW Dadaptation", "Adan Dadaptation", "Lion Dadaptation", "SGD Dadaptation", "Prodigy",
                     "Schedule-Free AdamW")  # fmt: skip
# Names in other trainers, for exactly the same.
OPTIMIZER_ALIASES = {
    "adamw": "Torch AdamW", "adamw32bit": "Torch AdamW", "adamw8bit": "8bit AdamW",
    "pagedadamw8bit": "Paged 8bit AdamW", "lion8bit": "8bit Lion", "pagedlion8bit": "Paged 8bit Lion",
    "sgdnesterov8bit": "8bit SGD", "sgd8bit": "8bit SGD", "dadaptadam": "AdamW Dadaptation",
    "dadaptlion": "Lion Dadaptation", "dadaptsgd": "SGD Dadaptation", "adamwschedulefree": "Schedule-Free AdamW",
}  # fmt: skip
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "linear_with_warmup", "cosine", "cosine_with_restarts",
                "cosine_annealing", "cosine_annealing_with_restarts", "polynomial", "rex", "adafactor")  # fmt: skip
BASE_PRECISIONS = ("full", "int8", "fp8", "nf4")
# Names in other trainers.
BASE_PRECISION_ALIASES = {
    "none": "full", "no": "full", "qint8": "int8", "float8": "fp8", "qfloat8": "fp8", "float8e4m3fn": "fp8",
    "nfloat4": "nf4",
}  # fmt: skip
BUCKET_RULES = ("area", "kohya", "one size")
LORA_TYPES = ("LoRA", "LoHa", "LoKr")
DEFAULT_LAYERS, ATTENTION, ATTENTION_AND_MLP, ALL_LINEAR = "default", "attention", "attention+mlp", "all-linear"
DEFAULT_SPELLING, KOHYA_SPELLING, DIFFUSERS_SPELLING = "default", "kohya", "diffusers"
LORA_SPELLINGS = (DEFAULT_SPELLING, KOHYA_SPELLING, DIFFUSERS_SPELLING)
LORA_LAYERS = (DEFAULT_LAYERS, ATTENTION, ATTENTION_AND_MLP, ALL_LINEAR)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A part of :class:`dreambooth.settings.run.Settings`."""

    # fmt: off
    use_lora: bool = setting(False, "General", "Use LoRA",
        "Train a small adapter on the frozen model instead of all its weights. Needs much less memory, and the result "
        "is a file of a few megabytes.")
    train_unet: bool = setting(True, "General", "Train UNET",
        "Train the denoising network. Turn it off to train only the text encoder.")
    stop_text_encoder: float = setting(1.0, "General", "Step ratio of text encoder training",
        "Fraction of all steps that also train the text encoder, from the start of the run. 1 trains it to the end; 0 "
        "leaves it unchanged and saves memory.",
        low=0, high=1, step=0.05)
    seed: int = setting(420420, "General", "Training seed",
        "Determines image order, noise and timesteps, so that a run can be repeated. -1 picks a new seed for each run.",
        low=-1, high=2**31 - 1)

    num_train_epochs: int = setting(100, "Intervals", "Training steps per image (epochs)",
        "Number of epochs: how often each image is trained. More learn the subject better; too many overfit.",
        low=1, high=100_000, step=1)
    max_train_steps: int = setting(0, "Intervals", "Maximum training steps",
        "Stop after this many optimizer steps, even if epochs remain. 0 means no limit.",
        low=0, high=10_000_000, step=1)
    save_embedding_every: int = setting(25, "Intervals", "Save model frequency (epochs)",
        "Save weights every N epochs, in the files selected under Saving. 0 saves only at the end.",
        low=0, high=100_000, step=1)
    save_preview_every: int = setting(5, "Intervals", "Save preview(s) frequency (epochs)",
        "Generate the sample prompts every N epochs. 0 generates them only at the end.",
        low=0, high=100_000, step=1)
    save_every_steps: int = setting(0, "Intervals", "Save model frequency (steps)",
        "Also save weights every N optimizer steps of this run. 0 saves by epochs only.",
        low=0, high=10_000_000, step=1, advanced=True)
    preview_every_steps: int = setting(0, "Intervals", "Save preview(s) frequency (steps)",
        "Also generate previews every N optimizer steps of this run. 0 generates them by epochs only.",
        low=0, high=10_000_000, step=1, advanced=True)
    validation_every: int = setting(0, "Intervals", "Validation frequency (steps)",
        "Measure the validation loss every N optimizer steps and keep the snapshot with the lowest loss; 0 turns it "
        "off. Without validation images it is measured on the training images.", low=0, high=10_000_000, step=1)
    validation_share: float = setting(0.0, "Intervals", "Validation split",
        "Fraction of each concept's images that is used for validation instead of training. Concepts with a validation "
        "directory are not split.", low=0, high=0.5, step=0.05, applies="validation_every > 0", advanced=True)
    autosave_minutes: float = setting(10.0, "Intervals", "Autosave (minutes)",
        "Save a snapshot after N minutes without one, to resume from after a crash; 0 turns it off. Only the last "
        "automatic one is kept, until the run has finished; the check shows its size.", low=0, high=100_000)
    epoch_pause_frequency: int = setting(0, "Intervals", "Pause after N epochs",
        "Pause every N epochs to let the GPU cool. 0 never pauses.", low=0, high=100_000, step=1, advanced=True)
    epoch_pause_time: int = setting(0, "Intervals", "Amount of time to pause between epochs (s)",
        "Length of each pause in seconds. Resume ends a pause early.", low=0, high=86_400, step=1,
        applies="epoch_pause_frequency > 0", advanced=True)

    train_batch_size: int = setting(1, "Batching", "Batch size",
        "Instance images per forward pass; with prior preservation, as many class images are added. Larger batches "
        "give smoother gradients and need more memory.",
        low=1, high=256, step=1)
    sample_batch_size: int = setting(1, "Batching", "Class batch size",
        "Number of class images generated at once. Larger is faster on a GPU, until its memory is full.",
        low=1, high=256, step=1, advanced=True)
    gradient_accumulation_steps: int = setting(1, "Batching", "Gradient accumulation steps",
        "Number of batches whose gradients are averaged for one optimizer step. Has the effect of a larger batch "
        "without its memory.", low=1, high=1024, step=1)
    gradient_checkpointing: bool = setting(True, "Batching", "Gradient checkpointing",
        "Recompute activations in the backward pass. Saves much memory; steps take about 25% longer.")
    gradient_set_to_none: bool = setting(True, "Batching", "Set gradients to none when zeroing",
        "Free the gradients' memory between steps instead of filling it with zeros.",
        applies="use_lora or not fused_backward", advanced=True)
    offload_fraction: float = setting(0.0, "Batching", "Block offload",
        "Fraction of the denoiser's blocks that are in main memory and on the GPU only while they compute; 1 needs the "
        "least GPU memory. Each step copies them two or three times: slower where the GPU computes faster than it "
        "copies.", low=0, high=1, step=0.05, advanced=True)
    offload_activations: bool = setting(False, "Batching", "Activation offload",
        "Keep what the backward pass needs of the forward pass in main memory. Saves GPU memory with large batches or "
        "resolutions; steps take slightly longer.", advanced=True)
    fused_backward: bool = setting(False, "Batching", "Fused backward pass",
        "Update each weight in the backward pass as soon as its gradient is there. Gradients then take almost no "
        "memory (4 bytes per weight less, 2 in bf16). It excludes gradient accumulation, fp16, several GPUs and "
        "clipping all gradients together.", applies="not use_lora", advanced=True)
    max_grad_norm: float = setting(1.0, "Batching", "Maximum gradient norm",
        "Gradients are clipped to this norm. Smaller values are more stable; 0 turns clipping off.",
        low=0, high=1000, step=0.1, advanced=True)
    tenc_grad_clip_norm: float = setting(0.0, "Batching", "Text encoder gradient norm",
        "Separate clipping norm for the text encoder. 0 clips it together with the UNet by the norm above.",
        low=0, high=128, step=0.25, applies="stop_text_encoder > 0", advanced=True)
    clip_each_tensor: bool = setting(False, "Batching", "Clip each tensor",
        "Clip the gradient of each weight tensor to the maximum norm on its own, instead of all gradients together. "
        "Needed for clipping with Fused backward pass.",
        applies="max_grad_norm > 0 or tenc_grad_clip_norm > 0", advanced=True)

    learning_rate: float = setting(2e-6, "Learning Rate", "Learning rate",
        "UNet learning rate in full training. Larger learns faster; too large damages the model.",
        low=0, high=1, applies="not use_lora and lr_scheduler != 'adafactor'")
    txt_learning_rate: float = setting(1e-6, "Learning Rate", "Text encoder learning rate",
        "Text encoder learning rate in full training. Usually at most that of the UNet.", low=0, high=1,
        applies="not use_lora and stop_text_encoder > 0 and lr_scheduler != 'adafactor'")
    lora_learning_rate: float = setting(1e-4, "Learning Rate", "LoRA UNET learning rate",
        "Learning rate of the UNet's adapters. Larger learns faster; too large gives distorted images.",
        low=0, high=1, applies="use_lora and lr_scheduler != 'adafactor'")
    lora_txt_learning_rate: float = setting(5e-5, "Learning Rate", "LoRA text encoder learning rate",
        "Learning rate of the text encoder's adapters. Usually about half of the UNet's.", low=0, high=1,
        applies="use_lora and stop_text_encoder > 0 and lr_scheduler != 'adafactor'")
    lr_scheduler: str = setting("constant_with_warmup", "Learning Rate", "Learning rate scheduler",
        "Shape of the learning rate over the run. linear, cosine, polynomial and rex decay to 0; cosine_annealing "
        "decays to the minimum and rises again or restarts; adafactor uses that optimizer's own schedule.",
        choices=LR_SCHEDULES,
        aliases={"cosinewithwarmup": "cosine", "cosinewithhardrestarts": "cosine_with_restarts"})
    lr_warmup_steps: float = setting(0.0, "Learning Rate", "Learning rate warm-up steps",
        "Optimizer steps over which the learning rate rises to its full value. Values below 1 are a fraction of the "
        "run.", low=0, high=1_000_000,
        applies="lr_scheduler not in ('constant', 'linear', 'cosine_annealing', 'cosine_annealing_with_restarts', "
        "'adafactor')")
    learning_rate_min: float = setting(1e-6, "Learning Rate", "Minimum learning rate",
        "The lowest learning rate that cosine annealing decays to.", low=0, high=1,
        applies="lr_scheduler in ('cosine_annealing', 'cosine_annealing_with_restarts')")
    lr_cycles: int = setting(1, "Learning Rate", "Number of hard resets",
        "Number of times in a run that the learning rate decays from its full value to 0.", low=1, high=1000, step=1,
        applies="lr_scheduler == 'cosine_with_restarts'")
    lr_factor: float = setting(1.0, "Learning Rate", "Constant/linear starting factor",
        "Initial learning rate as a fraction of the full one. At the scale position, constant jumps to the full rate; "
        "linear has risen to it.",
        low=0, high=1, step=0.05, applies="lr_scheduler in ('constant', 'linear')")
    lr_power: float = setting(1.0, "Learning Rate", "Polynomial power",
        "Exponent of the decay. 1 is linear; larger values decay faster.", low=0.1, high=10, step=0.1,
        applies="lr_scheduler == 'polynomial'")
    lr_scale_pos: float = setting(0.5, "Learning Rate", "Scale position",
        "Fraction of the run after which the full rate (constant, linear) or the minimum (cosine annealing) is "
        "reached.",
        low=0, high=1, step=0.05,
        applies="lr_scheduler in ('constant', 'linear') and lr_factor < 1 or "
        "lr_scheduler in ('cosine_annealing', 'cosine_annealing_with_restarts')")

    lora_type: str = setting("LoRA", "LoRA", "Adapter type",
        "LoRA loads everywhere; LoHa is more expressive for its size; LoKr gives very small files. LoHa and LoKr load "
        "in WebUIs, but not in every other program.", choices=LORA_TYPES, applies="use_lora")
    lora_start: str = setting("", "LoRA", "Start from LoRA",
        "Initialize the adapters from this LoRA (a path, or a name in the LoRA folder); its type, ranks and alphas "
        "must match those set here. Empty starts from zero.", applies="use_lora", advanced=True, path=True)
    training_adapter: str = setting("", "LoRA", "Training adapter",
        "A LoRA that makes a distilled model trainable, such as Z-Image-Turbo (a path, or a name in the LoRA folder). "
        "It is active in training, and neither in previews nor in the LoRA that is saved.",
        applies="use_lora and train_unet", advanced=True, path=True)
    lora_layers: str = setting(DEFAULT_LAYERS, "LoRA", "LoRA layers",
        "default: the layers usual for the model family; attention alone makes smaller files and learns less; "
        "attention+mlp leaves out other projections; all-linear: all linear layers of the blocks except modulation.",
        choices=LORA_LAYERS, applies="use_lora", advanced=True)
    lora_ranks: str = setting("", "LoRA", "LoRA ranks by layer",
        "Other ranks for some layers, by patterns of their paths: *.attn1.* = 8, *.mid_block.* = 0. The first pattern "
        "that matches counts; 0 means no adapter; alpha / rank stays.", applies="use_lora", advanced=True)
    lora_unet_rank: int = setting(4, "LoRA", "LoRA UNET rank",
        "Dimension of the UNet's adapters; larger learns more detail and makes larger files. 4 to 16 suits a subject, "
        "more a style.",
        low=1, high=1024, step=1, applies="use_lora")
    lora_txt_rank: int = setting(4, "LoRA", "LoRA text encoder rank",
        "Dimension of the text encoder's adapters. Larger learns more and makes larger files.", low=1, high=1024,
        step=1, applies="use_lora and stop_text_encoder > 0")
    lora_unet_alpha: float = setting(0.0, "LoRA", "LoRA UNET alpha",
        "The adapter is scaled by alpha / rank. 0 uses alpha = rank (scale 1); smaller values need a larger learning "
        "rate.", low=0, high=4096, applies="use_lora")
    lora_txt_alpha: float = setting(0.0, "LoRA", "LoRA text encoder alpha",
        "Alpha of the text encoder's adapters. 0 uses alpha = rank (scale 1).", low=0, high=4096,
        applies="use_lora and stop_text_encoder > 0")
    lora_unet_dropout: float = setting(0.0, "LoRA", "LoRA UNET dropout",
        "Probability of dropping an adapter unit at each step, which reduces overfitting. 0.1 is usual with many "
        "epochs; LoRA drops between its two matrices, LoHa and LoKr drop their input.",
        low=0, high=0.9, step=0.05, applies="use_lora and train_unet", advanced=True)
    lora_txt_dropout: float = setting(0.0, "LoRA", "LoRA text encoder dropout",
        "Dropout of the text encoder's adapters. Reduces overfitting; 0.1 is usual with many epochs.",
        low=0, high=0.9, step=0.05, applies="use_lora and stop_text_encoder > 0", advanced=True)
    use_lora_extended: bool = setting(False, "LoRA", "Use LoRA Extended (LoCon)",
        "Also train adapters of the UNet's convolutions. Learns texture and style better; makes larger files.",
        applies="use_lora and train_unet")
    lora_conv_rank: int = setting(4, "LoRA", "LoRA convolution rank",
        "Dimension of the adapters of 3x3 convolutions. Larger learns more texture and makes larger files.",
        low=1, high=1024, step=1, applies="use_lora and train_unet and use_lora_extended")
    lora_conv_alpha: float = setting(0.0, "LoRA", "LoRA convolution alpha",
        "Alpha of the convolutions' adapters. 0 uses alpha = rank (scale 1).", low=0, high=4096,
        applies="use_lora and train_unet and use_lora_extended")
    lora_dora: bool = setting(False, "LoRA", "DoRA",
        "Train magnitude and direction of the weights separately: closer to full training, but slower. The files load "
        "in WebUIs, but not in every other program.", applies="use_lora")
    lokr_factor: int = setting(0, "LoRA", "LoKr factor",
        "Size of LoKr's small matrix. Larger values make smaller files; 0 chooses the most even factorization.",
        low=0, high=1024, step=1, applies="use_lora and lora_type == 'LoKr'", advanced=True)
    lora_spelling: str = setting(DEFAULT_SPELLING, "LoRA", "LoRA spelling",
        "Names in saved LoRAs. default: those that most WebUIs read; kohya: those of sd-scripts and musubi-tuner; "
        "diffusers: those of its pipelines, with alpha multiplied into the weights.",
        choices=LORA_SPELLINGS, applies="use_lora", advanced=True, tab="Saving")
    lora_weight: float = setting(1.0, "LoRA", "LoRA weight when merging",
        "Strength of the UNet part when Generate Ckpt merges a LoRA. 1 is full strength.",
        low=-4, high=4, step=0.05, tab="Saving")
    lora_txt_weight: float = setting(1.0, "LoRA", "LoRA text weight when merging",
        "Strength of the text encoder part when Generate Ckpt merges a LoRA.", low=-4, high=4, step=0.05, tab="Saving")

    resolution: int = setting(512, "Image Processing", "Max resolution",
        "Images are resized to buckets of about this many pixels squared. Larger shows more detail, and needs more "
        "memory and time; use what the model was made for.", low=64, high=2048, step=64)
    resolution_height: int = setting(0, "Image Processing", "Resolution height",
        "Target height in pixels; 0 means square. With the kohya rule buckets have this area; with one size all images "
        "have this shape.", low=0, high=2048, step=64, applies="bucket_rule != 'area'", advanced=True)
    bucket_rule: str = setting("area", "Image Processing", "Bucket rule",
        "area: aspect ratios up to 2:1, nearest ratio wins; kohya: same bucket sizes and crops as sd-scripts, for "
        "comparable runs; one size: every image is cropped to the resolution.", choices=BUCKET_RULES,
        advanced=True)
    bucket_step: int = setting(64, "Image Processing", "Bucket step",
        "Bucket sides are multiples of this many pixels. Smaller steps crop less, but spread the images over more "
        "buckets.", low=8, high=256, step=8, applies="bucket_rule != 'one size'", advanced=True)
    bucket_min_side: int = setting(0, "Image Processing", "Bucket minimum side",
        "Shortest side of a bucket in pixels. 0 allows what 2:1 gives (area) or half the resolution (kohya).",
        low=0, high=2048, step=64, applies="bucket_rule != 'one size'", advanced=True)
    bucket_max_side: int = setting(0, "Image Processing", "Bucket maximum side",
        "Longest side of a bucket in pixels. 0 allows what 2:1 gives (area) or twice the resolution (kohya).",
        low=0, high=4096, step=64, applies="bucket_rule != 'one size'", advanced=True)
    bucket_no_upscale: bool = setting(False, "Image Processing", "No bucket upscaling",
        "Give small images buckets of their own size instead of enlarging them to the resolution.",
        applies="bucket_rule != 'one size'", advanced=True)
    hflip: bool = setting(False, "Image Processing", "Apply horizontal flip",
        "Flip each image horizontally at random (50%) each time it is used. Leave it off for faces, text and other "
        "asymmetric subjects.")

    optimizer: str = setting("Torch AdamW", "Tuning", "Optimizer",
        "8bit optimizers need little memory, and bitsandbytes; most others need pytorch-optimizer. "
        "Dadaptation and Prodigy find the learning rate themselves: set it to 1.", choices=OPTIMIZERS,
        aliases=OPTIMIZER_ALIASES)
    optimizer_args: str = setting("", "Tuning", "Optimizer arguments",
        "Additional arguments of the optimizer, such as betas=(0.9, 0.99), eps=1e-6. Those of sd-scripts work too: "
        "decouple=True d_coef=2 betas=0.9,0.99.", advanced=True)
    mixed_precision: str = setting("auto", "Tuning", "Mixed precision",
        "Precision of computations; half precision is faster and needs less memory. auto uses bf16 where the GPU "
        "supports it, fp16 on other GPUs, and none on a CPU.", choices=("auto", "no", "fp16", "bf16"),
        aliases={"float16": "fp16", "half": "fp16", "bfloat16": "bf16", "fp32": "no", "float32": "no", "none": "no"})
    full_mixed_precision: bool = setting(False, "Tuning", "Full mixed precision",
        "Also keep trainable weights in bf16, with stochastic rounding so that small updates are not lost. Takes less "
        "than half the memory; needs mixed precision bf16.", applies="not use_lora", advanced=True)
    base_precision: str = setting("full", "Tuning", "Base model precision",
        "Precision of a LoRA's frozen base model. int8 and fp8 take half the memory of bf16 weights, nf4 a "
        "quarter; steps take longer and are less accurate, slightly with int8, more with fp8, most with nf4.",
        choices=BASE_PRECISIONS, aliases=BASE_PRECISION_ALIASES, applies="use_lora or base_precision != 'full'")
    attention: str = setting("default", "Tuning", "Memory attention",
        "default: PyTorch's attention, fast and memory-efficient on most GPUs; xformers: needs that package; sliced: "
        "slower, for GPUs where neither saves memory.", choices=("default", "xformers", "sliced"),
        aliases={"sdpa": "default", "sdp": "default"}, advanced=True)
    deterministic: bool = setting(False, "Tuning", "Deterministic",
        "Use only deterministic algorithms, so that a GPU gives identical results each time, also when a run is "
        "resumed. Slower. In a WebUI, start it before anything is generated: cuBLAS reads this once per process. On a "
        "CPU training is always deterministic.", advanced=True)
    allow_tf32: bool = setting(False, "Tuning", "Allow TF32",
        "Multiply float32 matrices in TensorFloat-32 on RTX 30 GPUs and newer: much faster without mixed precision, "
        "but with 10 bits of the 23 behind the point. Results stay reproducible; half precision is not affected.",
        advanced=True)
    cudnn_benchmark: bool = setting(False, "Tuning", "cuDNN benchmark",
        "Let cuDNN try its algorithms for each new shape of images, and use the fastest on NVIDIA GPUs. The first step "
        "of each bucket takes longer, and runs differ in their last bits.", applies="not deterministic", advanced=True)
    channels_last: bool = setting(False, "Tuning", "Channels last",
        "Store the convolutions of a LoRA's frozen UNet in the layout that tensor cores use. Often faster in half "
        "precision, by how much depends on the GPU.", applies="use_lora", advanced=True)
    torch_compile: bool = setting(False, "Tuning", "Compile blocks",
        "Compile the denoiser's blocks (torch.compile): steps are faster, but the first ones take minutes. Needs "
        "PyTorch 2.6 and Triton on a GPU, a C++ compiler on a CPU; where it fails, training goes on without it.",
        advanced=True)
    cuda_graphs: bool = setting(False, "Tuning", "CUDA graphs",
        "Record the kernels of a step once for each shape of a batch, and replay them: faster on NVIDIA GPUs that wait "
        "for Python. Gradients stay in memory. Where recording fails, training goes on without it.", advanced=True)
    weight_decay: float = setting(0.01, "Tuning", "Weight decay",
        "Pulls the UNet's trainable weights toward zero at each step. Larger values regularize more.",
        low=0, high=1, step=0.001)
    tenc_weight_decay: float = setting(0.01, "Tuning", "Text encoder weight decay",
        "Weight decay of the text encoder. Larger values regularize more.",
        low=0, high=1, step=0.001, applies="stop_text_encoder > 0")
    clip_skip: int = setting(1, "Tuning", "Clip skip",
        "Layer of the text encoder that conditions the UNet, counted from the last (1). Anime models often use 2; only "
        "Stable Diffusion 1.x has the choice.", low=1, high=12, step=1)
    pad_tokens: bool = setting(True, "Tuning", "Pad tokens",
        "Pad captions to full chunks of 75 tokens, as WebUIs do. Off pads only to the longest caption of the batch.",
        advanced=True)
    strict_tokens: bool = setting(False, "Tuning", "Strict tokens",
        "Give each part of a caption between , ; . ! ? its own start and end token, so that tags don't influence each "
        "other. WebUIs encode prompts differently.", advanced=True)
    max_token_length: int = setting(75, "Tuning", "Max token length",
        "Maximum tokens of a caption, encoded in chunks of 75 as in WebUIs (but split at exactly 75 tokens). The rest "
        "of a longer caption is cut off.", choices=(75, 150, 225, 300))
    weighted_captions: bool = setting(False, "Tuning", "Weighted captions",
        "Apply the WebUIs' emphasis syntax (word), (word:1.2) and [word] in captions and previews. \\( is a literal "
        "bracket either way.", advanced=True)
    shuffle_tags: bool = setting(True, "Tuning", "Shuffle tags",
        "Shuffle the comma-separated tags of a caption each time it is used, so that the model learns nothing from "
        "their order.")
    keep_tokens: int = setting(1, "Tuning", "Keep tags",
        "Number of leading tags that are neither shuffled nor dropped. 1 protects the instance token.",
        low=0, high=255, step=1, applies="shuffle_tags or tag_dropout > 0")
    tag_dropout: float = setting(0.0, "Tuning", "Tag dropout",
        "Probability of dropping each of the other tags, each time a caption is used. Larger values make single tags "
        "matter less.", low=0, high=1, step=0.05, advanced=True)
    caption_dropout: float = setting(0.0, "Tuning", "Caption dropout",
        "Probability of training an image with an empty caption, each time it is used. Preserves unconditional "
        "generation, which the CFG scale relies on.",
        low=0, high=1, step=0.05, advanced=True)
    freeze_clip_normalization: bool = setting(False, "Tuning", "Freeze CLIP normalization layers",
        "Don't train the text encoder's normalization layers.",
        applies="not use_lora and stop_text_encoder > 0", advanced=True)
    use_ema: bool = setting(False, "Tuning", "Use EMA",
        "Maintain an exponential moving average of the UNet's weights. It often gives cleaner images than the weights "
        "of the last step.", applies="not use_lora")
    ema_decay: float = setting(0.9999, "Tuning", "EMA decay",
        "Decay of the average after its warm-up. Values nearer 1 average over more steps.",
        low=0, high=0.999999, applies="use_ema", advanced=True)
    ema_precision: str = setting("fp32", "Tuning", "EMA precision",
        "bf16 halves the average's memory, with stochastic rounding so that small updates are not lost. Previews with "
        "EMA weights are then generated in bf16 too.", choices=("fp32", "bf16"), applies="use_ema", advanced=True)
    ema_on_cpu: bool = setting(False, "Tuning", "EMA on CPU",
        "Store the average in main memory. Saves 4 bytes (2 in bf16) of GPU memory per UNet weight; steps take a "
        "little longer.", applies="use_ema", advanced=True)
    ema_update_every: int = setting(1, "Tuning", "EMA update interval",
        "Update the average every N steps, with the decay of N steps. Larger values save time, most of it with EMA on "
        "CPU; the weights of the last steps before the end may be left out.",
        low=1, high=1000, step=1, applies="use_ema", advanced=True)
    # fmt: on
