"""Injection: one pod patch, and the webhook that serves it. Never imported by the sidecar."""
