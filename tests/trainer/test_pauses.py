import pytest

from stream.errors import FencedError, StoreError
from trainer.pauses import Pauses, until_stored


def pauses(stops_after: int) -> tuple[Pauses, list[float]]:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) >= stops_after

    return Pauses(monotonic_s=lambda: 0.0, wait=wait, random=lambda: 0.5), waited


def test_a_step_is_repeated_until_the_database_takes_it() -> None:
    answers: list[StoreError | int] = [StoreError("away"), StoreError("away"), 7]

    def step() -> int:
        answer = answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    own, waited = pauses(10)
    assert until_stored(own, step) == 7
    assert len(waited) == 2


@pytest.mark.parametrize(("error", "num_waits"), [(FencedError("later term"), 0), (StoreError("away"), 3)])
def test_a_stale_writer_and_a_stop_end_the_attempts(error: Exception, num_waits: int) -> None:
    def step() -> None:
        raise error

    own, waited = pauses(3)
    with pytest.raises(type(error)):
        until_stored(own, step)
    assert len(waited) == num_waits
