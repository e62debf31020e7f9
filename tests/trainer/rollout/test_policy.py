import pytest

from stream.errors import ConfigError
from trainer.rollout import policy
from trainer.rollout.policy import Policy


def test_the_defaults_keep_the_trainer_in_charge() -> None:
    assert policy.of(None) == policy.of({}) == Policy()
    assert Policy().mode == "direct"


def test_values_come_as_text_and_are_kept_where_they_differ() -> None:
    kept = policy.changed({"canary_s": 60}, {"mode": "gated", "max_churn": "0.3", "alpha": 0.01})
    assert kept == {"mode": "gated", "canary_s": 60, "max_churn": 0.3}
    assert policy.of(kept).max_churn == 0.3
    assert policy.changed(kept, {"mode": "direct", "canary_s": 300, "max_churn": 0.2}) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modus": "gated"}, "policy.modus.*nearest known key is 'policy.mode'"),
        ({"mode": "manual"}, "policy.mode = 'manual'"),
        ({"canary_share": "0.6"}, "canary_share = 0.6: expected more than 0, at most 0.5"),
        ({"canary_s": "-1"}, "canary_s = -1: expected 0 or more"),
        ({"shadow_lists": "0"}, "shadow_lists = 0: expected at least 1"),
        ({"norm_versions": "1"}, "norm_versions = 1: expected at least 2"),
        ({"business_sessions": "-1"}, "business_sessions = -1: expected 0 or more"),
        ({"calibration_low": "1.2"}, "calibration_low = 1.2"),
        ({"p99_ratio": "0.5"}, "p99_ratio = 0.5: expected at least 1"),
        ({"max_drop": "1"}, "max_drop = 1.0"),
        ({"alpha": "0.5"}, "alpha = 0.5"),
        ({"canary_s": "soon"}, "policy.canary_s"),
        ({"max_loss": "nan"}, "policy.max_loss = 'nan': expected a finite number"),
        ({"norm_sigma": "inf"}, "policy.norm_sigma = 'inf': expected a finite number"),
        ({"least_correlation": "5"}, "least_correlation = 5.0: expected -1 to 1"),
        ({"max_churn": "20"}, "max_churn = 20.0: expected 0 to 1"),
        ({"max_fallbacks": "-0.1"}, "max_fallbacks = -0.1: expected 0 to 1"),
        ({}, "expected KEY=VALUE"),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy.changed(None, given)


def test_a_canary_never_serves_more_than_its_share_of_all_clients() -> None:
    for bucket_share in (0.01, 0.2, 0.5, 1.0):
        assert Policy().share(bucket_share) * bucket_share <= 0.01
    assert Policy().share(0.001) == 0.05
