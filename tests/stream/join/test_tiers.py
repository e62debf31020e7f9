"""Tiers: changes are read back at once, written once, and deleted after their confirmation."""

from stream.join import rows
from stream.join.tiers import BatchNumbers, HotTier, WarmTier


def _row(expiry_ts: int) -> bytes:
    return rows.pack_bytes(expiry_ts, b"x")


def _end_batch(batches: BatchNumbers) -> int:
    number = batches.current
    batches.advance(0)
    return number


def test_the_last_change_of_a_key_is_read_back_and_written_once() -> None:
    stored = {b"k": b"old"}
    hot = HotTier(stored, BatchNumbers())
    hot.put(b"k", b"new")
    hot.put(b"k", b"newer")
    assert hot.get(b"k") == b"newer"
    assert stored == {b"k": b"old"}
    assert hot.flush() == {b"k": b"newer"}
    assert stored == {b"k": b"newer"}
    assert hot.size_bytes == 6
    assert hot.flush() == {}


def test_a_hot_row_is_deleted_after_its_micro_batch_is_confirmed() -> None:
    batches = BatchNumbers()
    stored = {b"k": b"v", b"live": b"v"}
    hot = HotTier(stored, batches)
    hot.schedule_deletion(b"k")
    number = _end_batch(batches)
    hot.delete_confirmed()
    assert hot.flush() == {}
    batches.confirm(number)
    hot.delete_confirmed()
    assert hot.flush() == {b"k": None}
    assert stored == {b"live": b"v"}
    assert hot.size_bytes == 5


def test_a_hot_row_that_is_written_again_waits_for_its_own_confirmation() -> None:
    batches = BatchNumbers()
    stored = {b"k": b"v"}
    hot = HotTier(stored, batches)
    hot.schedule_deletion(b"k")
    first = _end_batch(batches)
    hot.put(b"k", b"w")
    hot.flush()
    hot.schedule_deletion(b"k")
    second = _end_batch(batches)
    batches.confirm(first)
    hot.delete_confirmed()
    assert hot.flush() == {}
    batches.confirm(second)
    hot.delete_confirmed()
    assert hot.flush() == {b"k": None}


def test_a_hot_row_that_no_restart_needs_is_deleted_at_once_unless_it_is_written() -> None:
    stored = {b"k": b"v", b"again": b"v"}
    hot = HotTier(stored, BatchNumbers())
    hot.delete(b"k")
    hot.delete(b"again")
    hot.put(b"again", b"w")
    hot.flush()
    assert stored == {b"again": b"w"}


def test_expired_rows_are_deleted_after_confirmation_unless_they_were_extended() -> None:
    batches = BatchNumbers()
    stored = {b"p1": _row(10), b"p2": _row(10), b"p3": _row(11)}
    warm = WarmTier(stored, batches)
    assert sorted(warm.expire(10)) == [b"p1", b"p2"]
    assert b"p1" in stored
    assert warm.get(b"p1") is None, "a late event sees the same with and without the confirmation"
    warm.put(b"p2", _row(20))
    number = _end_batch(batches)
    assert list(warm.delete_confirmed()) == []
    batches.confirm(number)
    assert list(warm.delete_confirmed()) == [b"p1"]
    warm.flush()
    assert set(stored) == {b"p2", b"p3"}
    assert sorted(warm.expire(20)) == [b"p2", b"p3"], "the extended row expires at its new time"


def test_the_rows_that_expire_first_are_evicted_but_digests_stay() -> None:
    stored = {b"c0:1:2": _row(1), b"s1": _row(2), b"s2": _row(3), b"s3": _row(4)}
    warm = WarmTier(stored, BatchNumbers())
    size_bytes = len(b"s1") + len(_row(2))
    assert list(warm.evict(size_bytes + 1)) == [(b"s1", _row(2)), (b"s2", _row(3))]
    assert warm.flush() == {b"s1": None, b"s2": None}
    assert set(stored) == {b"c0:1:2", b"s3"}
    assert warm.size_bytes == sum(len(key) + len(value) for key, value in stored.items())
    assert list(warm.expire(1)) == [b"c0:1:2"]


def test_an_evicted_row_that_is_written_again_expires_at_its_new_time() -> None:
    batches = BatchNumbers()
    stored = {b"p1": _row(2)}
    warm = WarmTier(stored, batches)
    assert list(warm.evict(1)) == [(b"p1", _row(2))]
    warm.put(b"p1", _row(5))
    warm.flush()
    assert warm.size_bytes == len(b"p1") + len(_row(5))
    assert list(warm.expire(5)) == [b"p1"]
    batches.confirm(_end_batch(batches))
    assert list(warm.delete_confirmed()) == [b"p1"]
    warm.flush()
    assert stored == {}
    assert warm.size_bytes == 0


def test_batch_numbers_continue_after_a_restart() -> None:
    batches = BatchNumbers()
    batches.restore(7, 0)
    assert (batches.current, batches.confirmed) == (7, 6)
    batches.confirm(3)
    assert batches.confirmed == 6, "a confirmation never moves back"


def test_a_row_that_is_deleted_and_written_again_in_one_micro_batch_expires() -> None:
    """The restart after a crash may write a row of closed queries anew when it has expired already."""
    batches = BatchNumbers()
    stored = {b"c0:1:2": _row(5)}
    warm = WarmTier(stored, batches)
    warm.delete(b"c0:1:2")
    assert list(warm.expire(5)) == []
    warm.put(b"c0:1:2", _row(5))
    warm.flush()
    assert warm.size_bytes == len(b"c0:1:2") + len(_row(5))
    assert list(warm.expire(5)) == [b"c0:1:2"]
    batches.confirm(_end_batch(batches))
    assert list(warm.delete_confirmed()) == [b"c0:1:2"]
    warm.flush()
    assert stored == {}
    assert warm.size_bytes == 0
