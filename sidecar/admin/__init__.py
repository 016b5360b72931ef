"""The admin surface (aiohttp.web), imported at its first request."""
