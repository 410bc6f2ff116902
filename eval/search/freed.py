"""Memory that was freed and is kept by allocators, given back to the system before more is asked for."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Let Arrow's pool and, where it is glibc's, the C library return what nobody uses any more."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
