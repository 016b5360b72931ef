"""What the allocator keeps although it is free goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from sidecar.server.overload import trim_memory

FREED = """
import re
from sidecar.server.overload import trim_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

taken = [bytes(1000) for _ in range(50_000)]
last = taken[-1]  # what lies below is not at the end of the heap
del taken
before = resident()
trim_memory()
print(before - resident() > 30_000)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another allocator than glibc's")
def test_what_is_free_below_something_that_is_not_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True\n"


def test_where_the_allocator_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    trim_memory()
