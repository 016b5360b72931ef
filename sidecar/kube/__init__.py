"""Kubernetes: a lean client, one reflector, and what is read and written through them."""
