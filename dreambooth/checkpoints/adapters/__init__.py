"""LoRA and its kin: what each kind does to a weight, and what files call their parts."""

from dreambooth.checkpoints.adapters.dora import vector_norms
from dreambooth.checkpoints.adapters.kinds import (
    IA3,
    ADAPTER_KINDS,
    Adapter,
    Difference,
    LoHa,
    LoKr,
    Lora,
    factorization,
    make_adapter,
)
from dreambooth.checkpoints.adapters.names import Key, parse_key

__all__ = [
    "IA3",
    "ADAPTER_KINDS",
    "Adapter",
    "Difference",
    "Key",
    "LoHa",
    "LoKr",
    "Lora",
    "factorization",
    "vector_norms",
    "make_adapter",
    "parse_key",
]
