"""Model files to modules and back. Reading never executes a pickle; writing goes in a stream.

reading.py            open a file: names, shapes, one tensor at a time    (pickles.py, torch_files.py: torch's own)
writing.py            safetensors in a stream
stable_diffusion.py   what all families share; sd1.py, sd2.py, sdxl.py: what is particular to each
layout.py             names in the single file and in the modules         (ldm_names.py, clip_names.py: the tables)
family.py             which family a file is of, or what it is instead    (recognise.py: where tensors don't tell)
sources.py            what Create reads from                              (folder_source.py, hub.py)
extract.py            Create: a source into ``working`` and ``source``    (tokenizer.py, manifest.py)
modules.py            ``working`` into modules, weights back into it
tokens.py             prompts to tokens                                   (emphasis.py: what brackets weigh)
text.py               tokens to text embeddings
adapters/             what LoRA and its kin do to a weight                (lora.py: their files)
lora_tools.py         several LoRAs into one, one into a smaller one      (lora_extract.py: one of two checkpoints)
single_file.py        Generate Ckpt: ``working`` into the source's layout
inspection.py         what any model file is, claims, and how far it moved
verify.py             what was written, read back and compared
"""
