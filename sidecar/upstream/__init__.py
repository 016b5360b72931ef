"""Reaching upstreams: the Transport seam, pools, endpoints, name resolution."""
