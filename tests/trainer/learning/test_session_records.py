import numpy as np
import pytest

from stream.errors import ArtifactError
from tests.trainer.session_log import START_TS, make_session
from trainer.learning import session_records


def test_sessions_come_back_as_they_were() -> None:
    rng = np.random.default_rng(1)
    sessions = [make_session(number, rng, watermark_ts=START_TS) for number in range(3)]
    assert session_records.unpack(session_records.pack(sessions)) == sessions
    assert session_records.unpack(session_records.pack([])) == []


def test_a_damaged_record_is_refused() -> None:
    rng = np.random.default_rng(1)
    arrays = dict(session_records.pack([make_session(0, rng, watermark_ts=START_TS)]))
    arrays["records"] = arrays["records"][::-1].copy()
    with pytest.raises(ArtifactError, match="session 0"):
        session_records.unpack(arrays)
