"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations
