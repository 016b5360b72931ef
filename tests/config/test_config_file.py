import asyncio
import os
import socket
from contextlib import asynccontextmanager

import pytest
import uvloop

from sidecar.config import stir
from sidecar.config.file import FileSource, UnreadableFile, names_of, read_document
from sidecar.config.inotify import open_watch
from sidecar.config.parse import MAX_BYTES
from sidecar.config.source import Mailbox, Offer, Unavailable

WAYS = pytest.mark.parametrize("use_inotify", [True, False], ids=["inotify", "polling"])


@pytest.fixture
def watch():
    opened = open_watch()
    if opened is None:
        pytest.skip("this system has no inotify")
    yield opened
    opened.close()


@asynccontextmanager
async def following(path, use_inotify):
    mailbox = Mailbox()
    source = FileSource(path, poll_seconds=0.02, use_inotify=use_inotify)
    task = asyncio.ensure_future(source.run(mailbox))
    try:
        yield mailbox
    finally:
        task.cancel()
        await asyncio.wait([task])


async def content(mailbox):
    async with asyncio.timeout(10):
        news = await mailbox.get()
    assert isinstance(news, Offer), news
    return news.data


async def trouble(mailbox):
    async with asyncio.timeout(10):
        news = await mailbox.get()
    assert isinstance(news, Unavailable), news
    return news.message


async def until(mailbox, wanted):
    """Editors truncate before they write: what is between counts for nothing."""
    while await content(mailbox) != wanted:
        pass


@WAYS
def test_an_edit_in_place_is_followed(tmp_path, use_inotify):
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert await content(mailbox) == b"one"
            path.write_bytes(b"two")
            await until(mailbox, b"two")

    uvloop.run(scenario())


@WAYS
def test_content_counts_not_the_time_stamp(tmp_path, use_inotify):
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")
    before = path.stat()

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert await content(mailbox) == b"one"
            path.touch()
            path.write_bytes(b"two")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            await until(mailbox, b"two")

    asyncio.run(scenario())


@WAYS
def test_an_editor_that_renames_is_followed(tmp_path, use_inotify):
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert await content(mailbox) == b"one"
            for text in (b"two", b"three"):
                new = tmp_path / "new"
                new.write_bytes(text)
                new.replace(path)
                assert await content(mailbox) == text

    uvloop.run(scenario())


@WAYS
def test_the_symlink_swaps_of_kubernetes_are_followed(tmp_path, use_inotify):
    def publish(name, text):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sidecar.yaml").write_bytes(text)
        link = tmp_path / "..data_tmp"
        link.symlink_to(name)
        link.replace(tmp_path / "..data")

    publish("..1", b"one")
    path = tmp_path / "sidecar.yaml"
    path.symlink_to("..data/sidecar.yaml")

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert await content(mailbox) == b"one"
            publish("..2", b"two")
            assert await content(mailbox) == b"two"
            publish("..3", b"three")
            assert await content(mailbox) == b"three"

    uvloop.run(scenario())


@WAYS
def test_a_file_behind_a_symlink_to_another_folder_is_followed(tmp_path, use_inotify):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    real = tmp_path / "elsewhere" / "real.yaml"
    real.write_bytes(b"one")
    path = tmp_path / "here" / "sidecar.yaml"
    path.symlink_to(real)

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert await content(mailbox) == b"one"
            real.write_bytes(b"two")
            await until(mailbox, b"two")

    uvloop.run(scenario())


@WAYS
def test_deletion_is_told_and_the_return_is_seen(tmp_path, use_inotify):
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert await content(mailbox) == b"one"
            path.unlink()
            assert "No such file" in await trouble(mailbox)
            (tmp_path / "new").write_bytes(b"one")
            (tmp_path / "new").replace(path)
            assert await content(mailbox) == b"one"

    uvloop.run(scenario())


@WAYS
def test_a_folder_that_comes_later_is_no_obstacle(tmp_path, use_inotify):
    path = tmp_path / "later" / "sidecar.yaml"

    async def scenario():
        async with following(path, use_inotify) as mailbox:
            assert "No such file" in await trouble(mailbox)
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "sidecar.yaml").write_bytes(b"one")
            (tmp_path / "new").replace(path.parent)
            assert await content(mailbox) == b"one"

    uvloop.run(scenario())


def test_nothing_is_told_twice(tmp_path):
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")

    async def scenario():
        async with following(path, use_inotify=False) as mailbox:
            assert await content(mailbox) == b"one"
            with path.open("r+b") as again:  # which does not truncate
                again.write(b"one")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await mailbox.get()

    asyncio.run(scenario())


def test_a_fifo_a_folder_and_a_socket_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnreadableFile, match="is a FIFO"):
        read_document(tmp_path / "fifo")
    with pytest.raises(UnreadableFile, match="is a folder"):
        read_document(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        with pytest.raises(UnreadableFile, match="cannot be opened"):
            read_document(tmp_path / "sock")
    with pytest.raises(UnreadableFile, match="a device"):
        read_document(type(tmp_path)("/dev/zero"))
    with pytest.raises(UnreadableFile, match="not a path"):
        read_document(type(tmp_path)("a\0b"))


def test_no_more_is_read_than_tells_that_a_file_is_too_large(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert len(read_document(tmp_path / "huge")) == MAX_BYTES + 1


def test_what_else_changes_in_the_folder_is_no_reason_to_look(tmp_path, watch):
    """An access log beside the document stirs a hundred times a second, and each look is a thread."""
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")
    assert watch.follow(names_of([path]))
    with (tmp_path / "access.log").open("ab", buffering=0) as other:
        other.write(b"a line\n")
    assert not watch.drain()
    path.write_bytes(b"two")
    with (tmp_path / "access.log").open("ab", buffering=0) as other:
        other.write(b"another\n")
    assert watch.drain(), "among others"
    (tmp_path / "renamed").touch()
    assert not watch.drain()
    (tmp_path / "renamed").replace(path)
    assert watch.drain()


def test_a_folder_that_goes_away_is_a_reason_to_look(tmp_path, watch):
    folder = tmp_path / "here"
    folder.mkdir()
    assert watch.follow({folder: {"sidecar.yaml"}})
    folder.rmdir()
    assert watch.drain()
    assert not watch.follow({folder: {"sidecar.yaml"}})


def test_two_paths_to_one_folder_are_followed_by_the_names_of_both(tmp_path, watch):
    """As `..data` and the folder that it names are."""
    real = tmp_path / "..1"
    real.mkdir()
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "sidecar.yaml").symlink_to("..data/sidecar.yaml")
    (real / "sidecar.yaml").write_bytes(b"one")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    (real / "tls.crt").write_bytes(b"pem")
    found = names_of([tmp_path / "sidecar.yaml", tmp_path / "tls.crt"])
    assert found[tmp_path] >= {"sidecar.yaml", "tls.crt", "..data"}
    assert found[tmp_path / "..data"] == found[real] == {"sidecar.yaml", "tls.crt"}
    assert watch.follow({tmp_path / "..data": {"sidecar.yaml"}, real: {"tls.crt"}})
    for name in ("sidecar.yaml", "tls.crt"):
        (real / name).write_bytes(b"new")
        assert watch.drain(), name


def test_a_document_that_is_moved_into_its_place_is_whole_and_one_that_is_written_there_may_not_be(tmp_path, watch):
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")
    assert watch.follow(names_of([path]))
    (tmp_path / "fresh").write_bytes(b"two")
    (tmp_path / "fresh").replace(path)
    assert (watch.drain(), watch.whole) == (True, True)
    path.write_bytes(b"three")
    assert (watch.drain(), watch.whole) == (True, False)


def test_nothing_is_waited_for_when_a_document_was_moved_into_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(stir, "QUIET_SECONDS", 60)
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(b"one")

    async def scenario():
        async with following(path, use_inotify=True) as mailbox:
            assert await content(mailbox) == b"one"
            (tmp_path / "fresh").write_bytes(b"two")
            (tmp_path / "fresh").replace(path)
            assert await content(mailbox) == b"two"

    uvloop.run(scenario())
