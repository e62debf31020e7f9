"""Seen sets: keys that expire by watermark time."""

from trainer.feed.seen import SeenSet


def test_a_key_is_new_once_until_it_expires() -> None:
    seen = SeenSet()
    assert [seen.add(b"a", 10), seen.add(b"a", 11), seen.add(b"b", 12)] == [True, False, True]
    assert b"a" in seen
    assert len(seen) == 2
    seen.forget(10)
    assert not seen.add(b"a", 20)
    seen.forget(11)
    assert b"a" not in seen
    assert seen.add(b"a", 20)


def test_arrays_keep_the_keys_and_their_times() -> None:
    seen = SeenSet()
    for number in range(50):
        seen.add(f"q{number}".encode(), number)
    again = SeenSet.from_arrays(seen.to_arrays())
    again.forget(25)
    seen.forget(25)
    assert len(again) == len(seen) == 25
    assert [again.add(f"q{number}".encode(), 99) for number in (24, 25)] == [True, False]
