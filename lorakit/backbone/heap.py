"""Memory that is free and that the C library keeps."""

import ctypes
import platform


def trim() -> None:
    """Let glibc give back the pages that lie free between arrays which are in use; elsewhere nothing."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
