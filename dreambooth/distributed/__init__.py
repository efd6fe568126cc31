"""Distributed training: several processes, one per GPU."""

from dreambooth.distributed.process_group import SINGLE_PROCESS, ProcessGroup

__all__ = ["SINGLE_PROCESS", "ProcessGroup"]
