"""Checksums of files, by the names that `checkpoint.json` has for them."""

import base64
import errno
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

_BLOCK = 1 << 23

Read = Callable[[int, int], bytes]
"""Part of a file: from where on, and how many bytes at most."""


def sha256(read: Read, size: int, pool: Executor) -> str:
    """The SHA-256 of the SHA-256s of its blocks of 8 MiB, one after the other.

    **Cost:** reads the file once; its blocks are read on the threads of `pool`.
    """

    def block(start: int) -> bytes:
        return hashlib.sha256(read(start, _BLOCK)).digest()

    starts = range(0, max(size, 1), _BLOCK)
    digests = pool.map(block, starts) if len(starts) > 1 else map(block, starts)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def crc32c(read: Read, size: int, pool: Executor) -> str:
    """The CRC-32C as Google Cloud Storage writes it.

    **Cost:** reads the file once, from front to back.

    **Errors:** `OSError` without the package `google-crc32c`.
    """
    try:
        import google_crc32c
    except ImportError:
        reason = "its checksum needs the package google-crc32c; pip install 'pjax-prim[gcs]'"
        raise OSError(errno.ENOSYS, reason) from None
    value = 0
    for start in range(0, size, _BLOCK):
        value = google_crc32c.extend(value, read(start, _BLOCK))
    return base64.b64encode(value.to_bytes(4, "big")).decode()


CHECKSUMS: Mapping[str, Callable[[Read, int, Executor], str]] = {"sha256": sha256, "crc32c": crc32c}
