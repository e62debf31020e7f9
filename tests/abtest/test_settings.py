from ipaddress import ip_address

import pytest

from abtest.settings import AbtestSettings


def test_probes_and_metrics_listen_on_this_machine_only_by_default() -> None:
    assert ip_address(AbtestSettings().metrics_host).is_loopback


@pytest.mark.parametrize("watch_s", [0.0, -1.0, float("nan")])
def test_a_watcher_without_a_pause_is_refused(watch_s: float) -> None:
    with pytest.raises(ValueError, match=f"watch_s = {watch_s}: expected more than 0"):
        AbtestSettings(watch_s=watch_s)


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_keeps_nothing_or_has_no_end_is_refused(days: float) -> None:
    with pytest.raises(ValueError, match=f"keep_facts_days = {days}: expected more than 0 days"):
        AbtestSettings(keep_facts_days=days)
    with pytest.raises(ValueError, match=f"keep_history_days = {days}: expected more than 0 days"):
        AbtestSettings(keep_history_days=days)
