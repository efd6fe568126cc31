"""Settings of the training objective: noise, timesteps, loss, prior preservation and Imagic."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import setting

LOSSES = ("l2", "huber", "smooth_l1", "l1")
HUBER_SCHEDULES = ("snr", "exponential", "constant")
TIMESTEP_SAMPLINGS = ("uniform", "logit_normal", "sigmoid", "mode")
FLOW_LOSS_WEIGHTINGS = ("none", "sigma_sqrt", "cosmap")
# Settings that only one kind of process has a meaning for -> why the other kind refuses them.
_NEEDS_FLOW = "it is defined for flow matching alone"
_NEEDS_DDPM = "it is not defined for flow matching"
FLOW_ONLY = {"resolution_shift": _NEEDS_FLOW, "flow_loss_weighting": _NEEDS_FLOW}
DDPM_ONLY = {
    "zero_terminal_snr": "flow matching has zero terminal SNR anyway",
    "min_snr_gamma": _NEEDS_DDPM,
    "debiased_estimation": _NEEDS_DDPM,
    "use_dream": _NEEDS_DDPM,
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A part of :class:`dreambooth.settings.run.Settings`."""

    # fmt: off
    offset_noise: float = setting(0.0, "Objective", "Offset noise",
        "Strength of added noise that is constant over the image. About 0.05 to 0.1 allows darker and brighter images.",
        low=-1, high=1, step=0.01)
    multires_noise_iterations: int = setting(0, "Objective", "Multi-resolution noise levels",
        "Number of coarser noise levels to add, which improves contrast and large shapes. 6 is usual; 0 adds none.",
        low=0, high=10, step=1)
    multires_noise_discount: float = setting(0.3, "Objective", "Multi-resolution noise discount",
        "Strength of each coarser level relative to the one before. Larger values add more coarse noise.",
        low=0, high=1, step=0.05, applies="multires_noise_iterations > 0")
    input_perturbation: float = setting(0.0, "Objective", "Input perturbation",
        "Extra noise added to the input but not to the target; reduces exposure bias. 0.1 is usual.",
        low=0, high=1, step=0.01, advanced=True)
    min_timestep: int = setting(0, "Objective", "Minimum timestep",
        "Timesteps are sampled from this one on. Larger values leave fine detail untrained.",
        low=0, high=999, step=1, advanced=True)
    max_timestep: int = setting(1000, "Objective", "Maximum timestep",
        "Timesteps are sampled below this one. Smaller values leave composition untrained.",
        low=1, high=1000, step=1, advanced=True)
    timestep_sampling: str = setting("uniform", "Objective", "Timestep sampling",
        "How often each timestep is trained. uniform: all equally often. The others prefer the middle of the noise "
        "schedule; mode leaves more for its ends.", choices=TIMESTEP_SAMPLINGS,
        aliases={"logitnormal": "logit_normal"}, advanced=True)
    timestep_mean: float = setting(0.0, "Objective", "Logit-normal mean",
        "Larger values train timesteps with much noise (composition) more often, negative ones those with little noise "
        "(detail).", low=-5, high=5, step=0.1, applies="timestep_sampling == 'logit_normal'", advanced=True)
    timestep_std: float = setting(1.0, "Objective", "Logit-normal deviation",
        "Standard deviation. Smaller values concentrate on fewer timesteps.", low=0.01, high=10, step=0.1,
        applies="timestep_sampling == 'logit_normal'", advanced=True)
    sigmoid_scale: float = setting(1.0, "Objective", "Sigmoid scale",
        "Smaller values concentrate on the middle timesteps; from about 1.5 on, the first and last ones gain.",
        low=0.01, high=10, step=0.1, applies="timestep_sampling == 'sigmoid'", advanced=True)
    mode_scale: float = setting(1.29, "Objective", "Mode scale",
        "Larger values prefer the middle timesteps more, negative ones the first and last; 0 is uniform.",
        low=-1, high=1.75, step=0.01, applies="timestep_sampling == 'mode'", advanced=True)
    timestep_shift: float = setting(1.0, "Objective", "Timestep shift",
        "Above 1, timesteps with much noise are trained more often; below 1, those with little. 1 changes nothing; 3 "
        "is usual for flow-matching models.", low=0.01, high=100, step=0.1, advanced=True)
    resolution_shift: bool = setting(False, "Objective", "Resolution-dependent shift",
        "Shift timesteps towards more noise for larger images, as FLUX does. For flow-matching models only.",
        advanced=True)
    flow_loss_weighting: str = setting("none", "Objective", "Flow loss weighting",
        "Loss weight by timestep, for flow-matching models only. sigma_sqrt strongly favors little noise, cosmap the "
        "middle of the schedule.", choices=FLOW_LOSS_WEIGHTINGS, advanced=True)
    zero_terminal_snr: bool = setting(False, "Objective", "Zero terminal SNR",
        "Rescale the noise schedule so that the last timestep is pure noise, for very dark and bright images. For "
        "v-prediction models only; the sampler must use zero terminal SNR too.", advanced=True)
    loss_type: str = setting("l2", "Objective", "Loss",
        "l2 is the mean squared error. huber, smooth_l1 and l1 give less weight to outliers, such as damaged images.",
        choices=LOSSES, aliases={"mse": "l2", "mae": "l1"})
    huber_schedule: str = setting("snr", "Objective", "Huber schedule",
        "How the Huber threshold depends on the timestep. snr and exponential use a larger one where there is little "
        "noise.", choices=HUBER_SCHEDULES, applies="loss_type in ('huber', 'smooth_l1')", advanced=True)
    huber_c: float = setting(0.1, "Objective", "Huber threshold",
        "Smallest value of the threshold; errors below it are squared, larger ones count linearly. Smaller values "
        "ignore outliers more.", low=0.0001, high=1, step=0.01,
        applies="loss_type in ('huber', 'smooth_l1')", advanced=True)
    min_snr_gamma: float = setting(0.0, "Objective", "Min SNR gamma",
        "Reduces the weight of timesteps with little noise, for faster and more stable training. 5 is usual, smaller "
        "reduces more; 0 weights all equally.", low=0, high=20, step=0.1)
    debiased_estimation: bool = setting(False, "Objective", "Debiased estimation",
        "Increase the weight of timesteps with much noise. Favors structure over detail.")
    use_dream: bool = setting(False, "Objective", "Use DREAM",
        "Rectified training target: train on the model's own prediction errors. Gives sharper images; steps take about "
        "a third longer.")
    dream_detail_preservation: float = setting(0.5, "Objective", "DREAM detail preservation",
        "Larger values rectify less and preserve more detail.", low=0, high=10, step=0.05, applies="use_dream")
    masked_loss: bool = setting(False, "Objective", "Masked loss",
        "Compute the loss only inside the white part of an image's mask (NAME_mask.png), or where the image is not "
        "transparent.")
    unmasked_weight: float = setting(0.1, "Objective", "Unmasked weight",
        "Loss weight outside the mask. 0 ignores the background; larger values train it more.",
        low=0, high=1, step=0.05, applies="masked_loss")

    prior_loss_weight: float = setting(0.75, "Prior Loss", "Prior loss weight",
        "Loss weight of class images. Larger preserves more of the base model, at the cost of fidelity to the subject.",
        low=0, high=10, step=0.01, applies="split_loss")
    prior_loss_scale: bool = setting(False, "Prior Loss", "Scale prior loss",
        "Decrease the prior loss weight linearly over the epochs.", applies="split_loss")
    prior_loss_target: int = setting(100, "Prior Loss", "Prior loss target",
        "Epoch in which the prior loss weight reaches its minimum.", low=1, high=100_000, step=1,
        applies="split_loss and prior_loss_scale")
    prior_loss_weight_min: float = setting(0.1, "Prior Loss", "Minimum prior loss weight",
        "Smallest value of the prior loss weight.", low=0, high=10, step=0.01,
        applies="split_loss and prior_loss_scale")
    split_loss: bool = setting(True, "Prior Loss", "Calculate split loss",
        "Average the loss of instance and class images separately, with the prior loss weight. Off: one unweighted "
        "mean over all images.", advanced=True)
    disable_class_matching: bool = setting(False, "Prior Loss", "Disable class matching",
        "Use the class images that exist and generate none, whatever Class images per instance image says.",
        advanced=True)

    train_imagic: bool = setting(False, "Imagic", "Train Imagic",
        "Edit a single image by its caption: optimize the caption's embedding, then train the UNet. Only previews and "
        "samples of this model show the edit; other programs can't.", advanced=True)
    imagic_steps: int = setting(500, "Imagic", "Embedding steps",
        "Optimization steps of the embedding before the UNet is trained. More steps reproduce the image better.",
        low=0, high=100_000, step=1, applies="train_imagic", advanced=True)
    imagic_learning_rate: float = setting(1e-3, "Imagic", "Embedding learning rate",
        "Learning rate of the embedding. Larger moves it further from the caption.", low=0, high=1,
        applies="train_imagic", advanced=True)
    imagic_strength: float = setting(0.7, "Imagic", "Edit strength",
        "How far previews and samples move from the image (0) to the caption (1). 0.6 to 0.8 is usual.",
        low=0, high=2, step=0.05, applies="train_imagic", advanced=True)
    # fmt: on
