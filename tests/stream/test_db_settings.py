import pytest

from stream.db_settings import DatabaseSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
        ({"statement_timeout_s": -1.0}, "statement_timeout_s"),
        ({"lock_timeout_s": 0.0}, "lock_timeout_s"),
        ({"prepare_threshold": -1}, "prepare_threshold"),
    ],
)
def test_refused_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatabaseSettings(**changes)  # type: ignore[arg-type]
