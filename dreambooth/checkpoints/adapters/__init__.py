"""LoRA and its kin: what each kind does to a weight, and what files call their parts."""

from dreambooth.checkpoints.adapters.dora import lengths
from dreambooth.checkpoints.adapters.kinds import (
    IA3,
    KINDS,
    Adapter,
    Difference,
    LoHa,
    LoKr,
    Lora,
    factorization,
    make_adapter,
)
from dreambooth.checkpoints.adapters.names import Key, split_key

__all__ = [
    "IA3",
    "KINDS",
    "Adapter",
    "Difference",
    "Key",
    "LoHa",
    "LoKr",
    "Lora",
    "factorization",
    "lengths",
    "make_adapter",
    "split_key",
]
