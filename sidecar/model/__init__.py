"""Immutable nouns and per-request state. Imports nothing of ours."""
