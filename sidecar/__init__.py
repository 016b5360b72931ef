"""Outrider: a Kubernetes-native HTTP sidecar proxy in Python."""

__version__ = "0.1.0"
