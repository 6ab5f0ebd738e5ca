"""Freed memory: the system hands out no page twice once it is kept."""

import platform
import subprocess
import sys

import pytest

CHURN = """
import resource, sys
from xrec.generate.allocator import keep_freed_memory

def churn():  # 4 buffers of 8 MiB, each page written, all freed
    blocks = [b"x" * 2**23 for _ in range(4)]

if "keep" in sys.argv:
    assert keep_freed_memory()
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> int:
    return int(subprocess.run([sys.executable, "-c", CHURN, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_keep_freed_memory_ends_page_faults_of_buffers_taken_again() -> None:
    kept, given_back = page_faults("keep"), page_faults()
    assert kept < 100
    assert given_back > 10 * max(kept, 1)
