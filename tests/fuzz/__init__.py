"""Fuzzing: `make fuzz` runs each target of `targets.py` under atheris for a share of FUZZ_SECONDS (default 120).

A target takes any bytes and checks one invariant. What one finds is kept in `seeds/TARGET/`, where `make test` plays it, and
becomes a vector of the corpus where it is a message. What was explored stays in `.cache/fuzz/TARGET/`.
"""
