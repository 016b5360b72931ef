"""`python -m fuzz.child TARGET ...`: one target under atheris; the rest are libFuzzer's arguments. Never returns."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sidecar"]):
    from fuzz.targets import MESSAGES, TARGETS

from fuzz.seeds import mutate


def main() -> None:
    """Run the target that the first argument names."""
    target = TARGETS[sys.argv.pop(1)]
    extra = {}
    if target.__name__ in MESSAGES:
        extra["custom_mutator"] = lambda data, limit, seed: mutate(data, limit, seed, atheris.Mutate)
    atheris.Setup(sys.argv, target, **extra)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
