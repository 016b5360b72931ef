"""The metrics of families.py sent to a collector (`telemetry.metrics.otlp`); OpenTelemetry is imported when it is on."""
