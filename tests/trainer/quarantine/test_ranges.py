import pytest

from stream.errors import ConfigError
from trainer.quarantine.ranges import LogRange, QuarantinedRange, RangeStatus, decided


def quarantined(number: int, status: RangeStatus = "quarantined") -> QuarantinedRange:
    own = LogRange(
        from_ts=0, until_ts=number, from_cursors={}, until_offsets={}, reasons=("hold",), numbers={}, num_sessions=1
    )
    return QuarantinedRange(
        lineage="prm", number=number, range=own, status=status, is_open=False, created_ts=0, row_version=1
    )


def test_a_range_that_waits_is_decided() -> None:
    ranges = {number: quarantined(number) for number in (1, 2)}
    assert decided("prm", ranges, 2) is ranges[2]


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({}, "nothing is in quarantine"),
        ({1: quarantined(1), 2: quarantined(2)}, "its ranges are 1 to 2"),
        ({3: quarantined(3, "dropped")}, "range = 3: it is dropped, expected quarantined"),
    ],
)
def test_a_range_that_is_missing_or_decided_is_refused(ranges: dict[int, QuarantinedRange], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decided("prm", ranges, 3)
