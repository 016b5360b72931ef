"""`--workers N`: several processes that serve the same listeners, and one that owns everything else (docs/decisions/0018)."""
