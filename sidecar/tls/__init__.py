"""Certificates, keys and CA bundles: what they are, where they come from, and the contexts that are made of them."""
