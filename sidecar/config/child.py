"""`python -m sidecar.config.child`: judges the document on stdin and writes an `Answer` to stdout.

Parsing a large document takes a second of CPU and 60 MB that the serving process must not spend: the C parser holds
the GIL, p50 goes from 0.3 to 75 ms. Here it costs nobody, and whatever a hostile document does ends with this process.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from pathlib import Path
from typing import Final

from sidecar.config.load import Problems, load
from sidecar.config.packed import Answer, Packed
from sidecar.config.parse import MAX_BYTES
from sidecar.config.problem import Problem

CPU_SECONDS: Final = 30
ADDRESS_SPACE: Final = 1 << 30


def answer_to(data: bytes) -> Answer:
    """Judge `data`; running out of memory is an answer too."""
    try:
        outcome = load(data)
    except MemoryError:
        return Answer(problems=[Problem("", 1, 1, "checking the document needs too much memory (make it smaller or simpler)")])
    if isinstance(outcome, Problems):
        return Answer(problems=outcome.problems)
    document, snapshot, origins = outcome
    return Answer(packed=Packed.of(document), origins=origins.encode(), warnings=list(snapshot.warnings))


def _limit() -> None:
    """Bound what a document can make us use, and offer ourselves first to the kernel when memory is short."""
    for kind, limit in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, ADDRESS_SPACE), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> int:
    """Exit 0 with an answer on stdout; anything else means that there is none."""
    _limit()
    gc.disable()  # everything lives until the end, which is near
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    sys.stdout.buffer.write(answer_to(data).encode())
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
