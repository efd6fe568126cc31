"""Adapters (LoRA, LoHa, LoKr, IA3, full differences; each also as DoRA): their math and tensor names in files."""

from dreambooth.checkpoints.adapters.dora import vector_norms
from dreambooth.checkpoints.adapters.kinds import (
    ADAPTER_KINDS,
    IA3,
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
    "ADAPTER_KINDS",
    "IA3",
    "Adapter",
    "Difference",
    "Key",
    "LoHa",
    "LoKr",
    "Lora",
    "factorization",
    "make_adapter",
    "parse_key",
    "vector_norms",
]
