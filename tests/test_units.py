import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_mcu.errors import UserError
from sparse_mcu.units import Range, format_seconds, parse_bytes, parse_limits, parse_range, parse_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("1K", 1024), ("2KB", 2048), ("2 kib", 2048), ("1.5k", 1536), ("1m", 1048576), (" 7 B ", 7)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "0", "0K", "1.3", "2G", "1 2", "1e3", "nan", "½K"])
def test_a_size_that_is_none_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UserError, match="a size is") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("1h 30m", 5400), ("45", 45), ("0.5m", 30), ("2D", 172800)],
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3s", "0s", "3w", "3 4", "3m4", "soon", "1h soon", "inf"])
def test_a_time_that_is_none_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UserError, match="a time") as caught:
        parse_seconds(text)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 10**6))
def test_seconds_survive_formatting_within_the_unit_that_is_dropped(seconds: int) -> None:
    back = parse_seconds(format_seconds(seconds))
    assert back == seconds if seconds < 3600 else seconds - 60 < back <= seconds


def test_seconds_are_formatted_by_size() -> None:
    assert [format_seconds(value) for value in (-1, 0, 45.9, 125, 3720)] == ["0s", "0s", "45s", "2m05s", "1h02m"]


@pytest.mark.parametrize("text, low, high", [("0,1", 0, 1), ("0, 255", 0, 255), ("-1,1", -1, 1), ("-2.5,1e1", -2.5, 10)])
def test_ranges(text: str, low: float, high: float) -> None:
    assert parse_range(text) == Range(low, high)


@pytest.mark.parametrize("text", ["", "1", "1,0", "0,0", "0,1,2", "0,nan", "0,inf", "a,b"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(UserError, match="a range is two numbers, the smaller first"):
        parse_range(text)


def test_limits_have_a_name_and_a_number() -> None:
    assert parse_limits(["model_size=2K", "macs=100000"]) == {"model_size": 2048, "macs": 100_000}
    for texts in (["model_size"], ["macs=1", "macs=2"], ["macs=many"]):
        with pytest.raises(UserError):
            parse_limits(texts)
