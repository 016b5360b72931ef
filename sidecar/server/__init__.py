"""Listening sockets and the life of the process's servers."""
