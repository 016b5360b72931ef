"""A real API server for these tests; they skip, with one line that says how to get one, where there is none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from support.apiserver import ApiServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """Shared by all tests: never stopped, each test has its own namespace."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def own_api_server() -> Iterator[ApiServer]:
    """The test's own, to stop, restart and compact as it likes."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    """A new namespace of the shared API server."""
    return api_server.admin.namespace(f"test-{next(_numbers)}")
