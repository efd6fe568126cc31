"""The loop and what it is made of.

loop.py        batch -> noise -> prediction -> loss -> step; obeys Controls between steps
session.py     modules, inputs, optimizer of a run, put together and taken apart
objective.py   what a step minimises          noise.py      the diffusion process; random numbers by position
inputs.py      latents and embeddings         adapters.py   LoRA beside frozen layers
distance.py    Huber and others               weighting.py  how much a timestep counts
dream.py       asked twice, trained once      loss_masks.py where in a picture the loss counts
optimizers.py  groups, clipping, stepping     optimizer_kinds.py  which there are, and whether they work here
schedules.py   length of the run, learning rates over it
ema.py         a moving average               precision.py  device, precision, memory forecast
snapshot.py    going on exactly (files)              results.py    what a run leaves: LoRA, working/, checkpoints
figures.py     losses, read without waiting   metadata.py   what a result says of itself
"""
