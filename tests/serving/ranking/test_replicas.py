import pytest

from serving.metrics import Metrics
from serving.ranking.replicas import CURRENT, STARTING, UNAVAILABLE, ReplicaUpdater
from stream.backoff import Backoff
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.replicas import catalogue
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas import topics
from stream.schemas.events import Behaviour, Profile, encode
from tests.serving.live import wait_until
from tests.serving.world import items


def test_without_a_broker_a_replica_is_unavailable() -> None:
    updater = ReplicaUpdater(None, topics.ITEMS, Catalogue(), Metrics(), random=lambda: 0.0)
    updater.start()
    updater.join()
    assert updater.state == UNAVAILABLE


def test_a_replica_outlives_certificates_that_are_gone_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Broker] = []

    def missing(broker: Broker) -> bool:
        tries.append(broker)
        raise ConfigError("kafka.ca_file = 'ca.pem': the file does not exist")

    monkeypatch.setattr("serving.ranking.replicas.is_reachable", missing)
    monkeypatch.setattr("serving.ranking.replicas.Backoff", lambda **_: Backoff(0.001, random=lambda: 0.0))
    updater = ReplicaUpdater(Broker(bootstrap="kafka:9092"), topics.ITEMS, Catalogue(), Metrics(), random=lambda: 0.0)
    updater.start()
    wait_until(lambda: len(tries) > 1)
    updater.request_stop()
    updater.join(10.0)
    assert updater.state == UNAVAILABLE


@pytest.mark.kafka
def test_replicas_read_what_is_there_and_stay_current(fresh_kafka: Broker) -> None:
    shop, profiles, metrics = Catalogue(), Profiles(), Metrics()
    updaters = [
        ReplicaUpdater(fresh_kafka, topics.ITEMS, shop, metrics, random=lambda: 0.0),
        ReplicaUpdater(fresh_kafka, topics.PROFILES, profiles, metrics, random=lambda: 0.0),
    ]
    with Producer(fresh_kafka) as producer:
        catalogue.publish(producer, items()[:40])
        producer.flush()
        assert updaters[0].state == STARTING
        for updater in updaters:
            updater.start()
        wait_until(lambda: all(updater.state == CURRENT for updater in updaters))
        assert len(shop) == 40
        catalogue.publish(producer, items()[40:])
        producer.send(topics.ITEMS, key=b"i-0", value=None)
        behaviours = [Behaviour(event_id="e", item_id="i-1", action="click", event_ts=1)]
        profile = Profile(client_id="c-1", behaviours=behaviours, updated_ts=1)
        producer.send(topics.PROFILES, key=b"c-1", value=encode(profile))
        producer.flush()
        wait_until(lambda: len(shop) == 59 and "c-1" in profiles and "i-0" not in shop)
    for updater in updaters:
        updater.request_stop()
    for updater in updaters:
        updater.join(10.0)
    assert profiles.history("c-1", 1).object_id == ["i-1"]
