"""The policy of a lineage's rollout: shares, times and thresholds of the gates, kept in its row.

Source: docs/rollout.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from stream import settings
from stream.errors import ConfigError

SECTION = "policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Thresholds of the gates, and the shares and times of a canary.

    Attributes:
        mode: `direct` lets the trainer put its verified versions live; `gated` leaves that to the controller.
        on_rollback: What the trainer does with the range since the last good version: `wait`, `replay` or `skip`.
        on_rejection: What the trainer does after gate 3, 4 or 5 has rejected a version while an older one is live: go
            back as after a rollback, with the range since as `wait`, `replay` or `skip` says, or `keep` what it has
            learned.
        drill_version: Number of a version that learns flipped labels on purpose, so that the gates can be seen to
            refuse it; 0 for none.
        canary_share: Largest share of the lineage's clients that a canary serves.
        canary_share_of_all: Largest share of all clients that a canary serves.
        canary_s: Seconds that a canary lasts at least.
        canary_queries: Answers that canary and control slice need at least.
        watch_s: Seconds after a promotion in which a failed gate still rolls the version back.
        server_fresh_s: Age in seconds from which the report of a server does not count.
        norm_sigma: Standard deviations that the change of the weights' norm may lie from its history.
        norm_versions: Former versions that make a history of it.
        prequential_lists: Lists that the comparison with the live version and the incoming order needs.
        max_loss: Relative rise of the log loss against the live version that is still allowed.
        max_lag: AUC by which the lists may rank behind the incoming order.
        calibration_low: Least predicted over observed labels.
        calibration_high: Largest predicted over observed labels.
        calibration_labels: Labels that make a calibration, overall and in a category.
        shadow_lists: Lists that the comparison of orders with the live version needs.
        shadow_versions: Former versions that make a history of changes of order.
        shadow_sigma: Standard deviations that a change of order may lie from its history.
        least_correlation: Least mean rank correlation with the live version in any case, and the only limit without a
            history.
        min_correlation: Mean rank correlation with the live version that always suffices.
        max_churn: Share of lists whose first item changes that is always allowed.
        alpha: Chance that the canary of a harmless version fails the gate `system`, and the same for `business`.
        p99_ratio: Largest p99 of the canary relative to that of the control slice.
        max_fallbacks: Rise of the fallback share that is still allowed.
        max_bad: Rise of the share of bad outputs that is still allowed.
        business_sessions: Sessions with facts that canary and control slice need; 0 lets a canary end without any.
        max_drop: Relative drop of CTR, CVR or GMV that is still allowed.
    """

    mode: Literal["direct", "gated"] = "direct"
    on_rollback: Literal["wait", "replay", "skip"] = "wait"
    on_rejection: Literal["keep", "wait", "replay", "skip"] = "keep"
    drill_version: int = 0
    canary_share: float = 0.05
    canary_share_of_all: float = 0.01
    canary_s: int = 300
    canary_queries: int = 2_000
    watch_s: int = 600
    server_fresh_s: int = 10
    norm_sigma: float = 6.0
    norm_versions: int = 5
    prequential_lists: int = 1_000
    max_loss: float = 0.005
    max_lag: float = 0.0
    calibration_low: float = 0.9
    calibration_high: float = 1.1
    calibration_labels: int = 400
    shadow_lists: int = 1_000
    shadow_versions: int = 5
    shadow_sigma: float = 6.0
    least_correlation: float = 0.5
    min_correlation: float = 0.9
    max_churn: float = 0.2
    alpha: float = 0.01
    p99_ratio: float = 1.25
    max_fallbacks: float = 0.01
    max_bad: float = 0.001
    business_sessions: int = 1_000
    max_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("canary_share", "canary_share_of_all"):
            # Canary and control slice have equal shares, so more than half leaves no control slice.
            if not 0.0 < getattr(self, name) <= 0.5:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0, at most 0.5")
        if not 0.0 < self.alpha < 0.5:
            raise ValueError(f"alpha = {self.alpha}: expected more than 0, less than 0.5")
        for name in (
            "canary_s",
            "watch_s",
            "norm_sigma",
            "shadow_sigma",
            "max_loss",
            "max_lag",
            "business_sessions",
            "drill_version",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
        for name in ("canary_queries", "server_fresh_s", "prequential_lists", "calibration_labels", "shadow_lists"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name in ("norm_versions", "shadow_versions"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 2")
        if not 0.0 < self.calibration_low <= 1.0 <= self.calibration_high:
            raise ValueError(
                f"calibration_low = {self.calibration_low}, calibration_high = {self.calibration_high}: "
                "expected a range around 1"
            )
        if self.p99_ratio < 1.0:
            raise ValueError(f"p99_ratio = {self.p99_ratio}: expected at least 1")
        for name in ("least_correlation", "min_correlation"):
            if not -1.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected -1 to 1")
        for name in ("max_churn", "max_fallbacks"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 to 1")
        for name in ("max_bad", "max_drop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more, less than 1")

    def share(self, bucket_share: float | None) -> float:
        """Return the share of the lineage's clients that a canary serves.

        Args:
            bucket_share: Share of all clients that the lineage has; None, as without an experiment, counts as all.

        >>> Policy().share(0.5), Policy().share(0.1), Policy().share(None)
        (0.02, 0.05, 0.01)
        """
        return min(self.canary_share, self.canary_share_of_all / (bucket_share or 1.0))


def of(stored: Mapping[str, object] | None) -> Policy:
    """Return the policy of a lineage's row: the defaults, and the values that differ from them.

    Raises:
        ConfigError: If a key is unknown or a value is refused; the message names both.
    """
    flags = {f"{SECTION}.{key}": value for key, value in (stored or {}).items()}
    return settings.load({SECTION: Policy}, flags=flags).get(SECTION, Policy)


def changed(stored: Mapping[str, object] | None, given: Mapping[str, object]) -> dict[str, object]:
    """Return what a row keeps after `given` was set: the values that differ from the defaults.

    Raises:
        ConfigError: If a key is unknown or a value is refused, or nothing is given.
    """
    if not given:
        raise ConfigError("policy: expected KEY=VALUE")
    values, defaults = asdict(of({**(stored or {}), **given})), asdict(Policy())
    return {key: value for key, value in values.items() if value != defaults[key]}
