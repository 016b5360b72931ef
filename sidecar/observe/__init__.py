"""Everything that watches: metrics, access log, recent failures, runtime."""
