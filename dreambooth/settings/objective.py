"""What a run asks of the unet: noise, timesteps, loss, the class beside the subject, one edited picture."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import setting

LOSSES = ("l2", "huber", "smooth_l1", "l1")
HUBER_SCHEDULES = ("snr", "exponential", "constant")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A part of :class:`dreambooth.settings.run.Settings`."""

    # fmt: off
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
    # fmt: on
