import asyncio
import stat

import pytest

from sidecar.config.last_good import FILE_NAME, Kept, LastGood


def save(folder, data=b"document"):
    asyncio.run(LastGood(folder).save(data, source="file", revision="r1"))


def load(folder):
    return asyncio.run(LastGood(folder).load())


def test_what_was_kept_comes_back_byte_for_byte(tmp_path):
    save(tmp_path, b"a: 1\n\n\xff")
    assert load(tmp_path) == Kept("file", "r1", b"a: 1\n\n\xff")


def test_the_file_is_the_owners_alone_and_nothing_else_is_left(tmp_path):
    save(tmp_path / "new")
    save(tmp_path / "new", b"second")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE_NAME]
    assert stat.S_IMODE((tmp_path / "new" / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert load(tmp_path / "new").data == b"second"


def test_a_write_under_way_is_waited_for_at_the_end_although_its_task_is_cancelled(tmp_path):
    async def main():
        last_good = LastGood(tmp_path)
        saving = asyncio.create_task(last_good.save(b"document", source="file", revision="r1"))
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.wait((saving,))
        await last_good.settled(10.0)
        assert (tmp_path / FILE_NAME).exists()

    asyncio.run(main())


def test_no_file_is_no_warning(tmp_path, caplog):
    assert load(tmp_path) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data + b"x", lambda _: b"", lambda _: b"{}\n", lambda _: b"[" * 100_000 + b"\n", lambda _: b"\xff\n",
     lambda data: data.replace(b'"format": 1', b'"format": 2'), lambda data: data.replace(b'"r1"', b"7")],
)  # fmt: skip
def test_a_damaged_file_is_not_used_and_warned_about_once(damage, tmp_path, caplog):
    save(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(damage(path.read_bytes()))
    assert load(tmp_path) is None
    assert [record.event for record in caplog.records] == ["last_good_failed"]


def test_a_folder_in_place_of_the_file_is_not_used(tmp_path, caplog):
    (tmp_path / FILE_NAME).mkdir()
    assert load(tmp_path) is None
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")

    async def scenario():
        keeper = LastGood(tmp_path / "file" / "state")
        await keeper.save(b"a", source="file", revision="1")
        await keeper.save(b"b", source="file", revision="2")

    asyncio.run(scenario())
    assert [record.event for record in caplog.records] == ["last_good_failed"]


def test_a_link_that_somebody_left_is_not_followed(tmp_path):
    save(tmp_path)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).symlink_to(victim)
    save(tmp_path)
    assert victim.read_bytes() == b"precious"
    assert load(tmp_path).data == b"document"
