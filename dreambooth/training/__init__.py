"""The loop and what it is made of.

loop.py        batch -> noise -> prediction -> loss -> step; obeys Controls between steps
session.py     modules, inputs, optimizer of a run, put together and taken apart
objective.py   what a step minimises          noise.py      the diffusion process; random numbers by position
inputs.py      latents and embeddings         adapters.py   LoRA beside frozen layers
optimizers.py  groups, clipping, stepping     schedules.py  length of the run, learning rate over it
ema.py         a moving average               precision.py  device, precision, memory forecast
state.py       a session's state              snapshot.py   that on disk: going on exactly
intervals.py   what is due after a step       validation.py loss on the same pictures and noise each time
results.py     what a run leaves: LoRA, working/, checkpoints
figures.py     losses, read without waiting   metadata.py   what a result says of itself
"""
