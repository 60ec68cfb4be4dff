"""Reading without keeping what decoding took."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h
_TRIM_THRESHOLD = -1
_MEGABYTE = 1 << 20


@contextlib.contextmanager
def returning_memory() -> Iterator[None]:
    """Buffers of a megabyte or more go back to the system as soon as they are freed.

    By default glibc raises the size from which it does so to the largest buffer it has seen freed,
    up to 32 MB, and each thread then keeps up to 64 MB. On exit these bounds are set, which glibc
    would reach by itself after a large read. Does nothing with another C library, or where the user
    chose (`MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`).
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ)
    library = ctypes.CDLL(None) if sys.platform == "linux" and not chosen else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _MEGABYTE)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, 32 * _MEGABYTE)
        library.mallopt(_TRIM_THRESHOLD, 64 * _MEGABYTE)
