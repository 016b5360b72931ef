"""Rules of RFC 9110 and 9112 as pure functions: no clock, no loop, no sockets."""
