"""What becomes of memory that torch frees."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGEST_REUSED = 32 << 20  # bytes; glibc takes no more
_KEPT = 1 << 30  # bytes at the end of the heap


def keep_freed_memory() -> bool:
    """Lets the process use freed memory again instead of handing it back to the system; whether that worked.

    By default glibc gives blocks of some hundred KiB back as soon as they are freed. A step of a world or of a training
    then gets the same pages anew, each by a page fault, which can take longer than what is computed in them. Blocks
    above 32 MiB still go back, and of what is free at the heap's end all above 1 GiB. Elsewhere than on glibc nothing
    changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED) and mallopt(_TRIM_THRESHOLD, _KEPT))
