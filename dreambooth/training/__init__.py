"""The training loop and its parts.

loop.py              batch -> noise -> prediction -> loss -> step; handles Controls between steps
context.py           what a run is made from            session.py            modules, inputs and optimizer of a run
objective.py         the loss of a batch                noise.py              diffusion process, random numbers
inputs.py            latents and size conditioning      inpainting.py         extra channels of inpainting models
prompts.py           prompt embeddings                  imagic.py             Imagic: optimized text embedding
loss_functions.py    l2, l1, Huber                      loss_weighting.py     Min-SNR, debiased estimation
loss_masks.py        loss weights by pixel              dream.py              DREAM: rectified training target
adapters.py          LoRA, LoHa, LoKr, DoRA             dropout.py            adapter dropout
init_from_lora.py    adapters that start from a file    attention.py          attention implementations
optimizers.py        groups, clipping, stepping         optimizer_kinds.py    the table of optimizers
fused_adamw.py       AdamW with little overhead         stochastic_rounding.py  AdamW in pure bfloat16
fused_backward.py    steps in the backward pass         step_in_parts.py      base of our own optimizers
rounded_optimizer.py  others in pure bfloat16      gradient_clipping.py  limits of norms
schedules.py         run length and learning rates      ema.py                exponential moving average
precision.py         compute precision                  reproducible.py       deterministic algorithms
snapshot.py          snapshots on disk                  snapshot_state.py     a session's state in a snapshot
lineage.py           branches of snapshots              snapshot_list.py      all snapshots, without tensors
scheduled_tasks.py   which periodic tasks are due       validation.py         loss on a fixed set of images
results.py           LoRAs, checkpoints, working/       metadata.py           metadata of results
step_metrics.py      losses read asynchronously        chunks.py             bounded chunks of lists of tensors
gpu_kernels.py       TF32, cuDNN, memory format        compiled_blocks.py    torch.compile
rounded_adafactor.py  Adafactor in pure bfloat16      cuda_graphs.py       replayed passes
training_adapter.py  a LoRA that is active in training alone
adapter_ranks.py     checks of ranks by pattern  lora_spelling.py     names in saved LoRAs
"""
