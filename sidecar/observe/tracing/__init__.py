"""Spans (OpenTelemetry). Nothing of `opentelemetry` is imported before a configuration asks for it, and then in a thread."""
