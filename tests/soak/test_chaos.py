"""The short form of `make soak`: the same load, the same events, the same verdict."""

from __future__ import annotations

import os
import random

import pytest
import uvloop
from soak.chaos import soak

SECONDS = 20.0 * float(os.environ.get("OUTRIDER_SOAK", "1.0"))


@pytest.mark.timeout(300)
def test_while_everything_changes_no_answer_is_mixed_up_and_every_failure_has_a_reason() -> None:
    seed = random.randrange(1 << 30)
    figures, samples, broken = uvloop.run(soak(SECONDS, seed))
    assert broken == [], (seed, figures)
    assert figures["answered"]["200"] > 0
    assert len(samples) > 10
