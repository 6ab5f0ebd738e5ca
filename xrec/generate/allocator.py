"""glibc's allocator, told to keep what is freed: each layer of a pass takes the same large buffers again.

By default glibc gives them back to the system, which hands them out page by page again, each one zeroed. See mallopt(3).
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {
    _M_MMAP_THRESHOLD: 32 * 2**20,  # the most that glibc takes; larger buffers are still given back
    _M_TRIM_THRESHOLD: 2**30,
    _M_TOP_PAD: 64 * 2**20,
}


def keep_freed_memory() -> bool:
    """For the rest of this process, which keeps up to 1 GiB that it does not use; False, and nothing done, where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(parameter, value) for parameter, value in _SETTINGS.items()]
    return all(taken)
