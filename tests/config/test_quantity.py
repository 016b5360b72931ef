import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model.quantity import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1m1ms", 60.001),
        ("99999h", 99999 * 3600.0),
        ("10s1h", 3610.0),
        ("1h2m3s4ms", 3723.004),
    ],
)
def test_a_gep_2257_duration_is_the_sum_of_its_parts(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "1d", "1.5s", "-1s", "+1s", "1 s", "5s\n", "100000s", "1s1s1s1s1s", "s", "1H", "\u0661s", "1us"])
def test_what_gep_2257_does_not_know_is_no_duration(text):
    with pytest.raises(ValueError):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=99_999 * 3_600_000))
def test_every_duration_in_milliseconds_survives_being_written_and_read(milliseconds):
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), 100_000 * 3600])
def test_what_the_format_cannot_say_is_refused(seconds):
    with pytest.raises(ValueError):
        format_duration(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("32Ki", 32768), ("1M", 10**6), (0, 0), ("17", 17), ("2k", 2000), ("3Ti", 3 << 40), ("1G", 10**9)]
)
def test_sizes_are_plain_numbers_or_kubernetes_quantities(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "Ki", "1.5Mi", "-1", -1, "1KiB", "1 Ki", "1Ki\n", "1m"])
def test_other_spellings_of_a_size_are_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)
