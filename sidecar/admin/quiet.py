"""aiohttp's server tells its log of every malformed request and of every client that leaves; neither is news."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger


def quiet_server_log() -> None:
    """Leave those lines out from now on. More than once is harmless."""
    server_logger.addFilter(_worth_a_line)


def _worth_a_line(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))
