from ipaddress import ip_address

from abtest.settings import AbtestSettings


def test_probes_and_metrics_listen_on_this_machine_only_by_default() -> None:
    assert ip_address(AbtestSettings().metrics_host).is_loopback
