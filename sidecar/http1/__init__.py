"""The HTTP/1.1 engine: connections, bodies, flow control, relays and tunnels."""
