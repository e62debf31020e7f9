"""The state machine of a version: statuses, moves and who may make them, and the controller's next move.

The module is pure: what is known comes in as a view and as verdicts, the time as an argument. Three-valued verdicts
decide. A wait never promotes and never rolls back.

Source: docs/rollout.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from trainer.rollout.policy import Policy

Status = Literal[
    "published",
    "verified",
    "canary",
    "live",
    "superseded",
    "rejected",
    "quarantined",
    "rolled_back",
    "retired",
]
Actor = Literal["trainer", "controller", "user"]
Outcome = Literal["pass", "fail", "wait"]

BEFORE_CANARY: Final = ("integrity", "golden", "prequential", "calibration", "shadow")
"""Gates that a verified version passes before it serves anyone, in this order."""
IN_CANARY: Final = ("system", "business")
"""Gates that need clients."""
GATES: Final = (*BEFORE_CANARY, *IN_CANARY)
OF_LEARNING: Final = frozenset({"prequential", "calibration", "shadow"})
"""Gates that judge what the trainer has learned, by numbers that it publishes itself."""

_TRAINER: Final[frozenset[Actor]] = frozenset({"trainer"})
_CONTROLLER: Final[frozenset[Actor]] = frozenset({"controller"})
_USER: Final[frozenset[Actor]] = frozenset({"user"})
_OPERATED: Final = _CONTROLLER | _USER
MOVES: Final[Mapping[tuple[Status, Status], frozenset[Actor]]] = {
    ("published", "verified"): _TRAINER,
    ("published", "rejected"): _TRAINER | _CONTROLLER,
    ("published", "quarantined"): _OPERATED,
    ("verified", "canary"): _CONTROLLER,
    ("verified", "live"): _TRAINER | _USER,
    ("verified", "rejected"): _CONTROLLER,
    ("verified", "superseded"): _CONTROLLER,
    ("verified", "quarantined"): _OPERATED,
    ("canary", "live"): _OPERATED,
    ("canary", "rolled_back"): _OPERATED,
    ("canary", "quarantined"): _OPERATED,
    ("canary", "superseded"): _OPERATED,
    ("live", "superseded"): _TRAINER | _OPERATED,
    ("live", "rolled_back"): _OPERATED,
    ("superseded", "live"): _OPERATED,
    ("superseded", "quarantined"): _OPERATED,
    **{
        (status, "retired"): _TRAINER
        for status in ("published", "verified", "superseded", "rejected", "quarantined", "rolled_back")
    },
}
"""From and to status, and who may make the move."""


def may_move(from_status: Status, to_status: Status, actor: Actor) -> bool:
    """Return whether this actor may make this move."""
    return actor in MOVES.get((from_status, to_status), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """A version as the controller and the commands see it.

    Attributes:
        number: Its number in the lineage.
        status: Its status.
        artifact: Its address.
        parent: Address of the version that it was trained from.
        row_version: Count of the writes to its row.
        published_ts: Time of its row, epoch milliseconds.
        live_since: Time at which it last went live; None if it never did.
        canary_share: Share of the lineage's clients that it serves as canary.
        canary_since: Time at which its canary began.
        metrics: Numbers that its trainer published with it.
    """

    number: int
    status: Status
    artifact: str = ""
    parent: str | None = None
    row_version: int = 1
    published_ts: int = 0
    live_since: int | None = None
    canary_share: float | None = None
    canary_since: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageView:
    """A lineage with its versions, read in one statement.

    Attributes:
        name: Its name.
        row_version: Count of the writes to its row; each move compares it.
        policy: Values of its policy that differ from the defaults.
        pinned: Version that stays live; None without a pin.
        frozen: Reason why no version moves; None if they do.
        killed: Reason why its clients get the incoming order; None if they do not.
        rewind_to: Version from which the trainer has to start again, 0 for fresh weights; None if it need not.
        rewind_mode: What the trainer then does with the range in between.
        versions: Its versions, oldest first; retired ones included.
    """

    name: str
    row_version: int = 1
    policy: Mapping[str, object] = field(default_factory=dict)
    pinned: int | None = None
    frozen: str | None = None
    killed: str | None = None
    rewind_to: int | None = None
    rewind_mode: str | None = None
    versions: tuple[VersionView, ...] = ()

    def get(self, number: int) -> VersionView | None:
        """Return a version by its number."""
        return next((version for version in self.versions if version.number == number), None)

    def only(self, status: Status) -> VersionView | None:
        """Return the newest version of a status; live and canary have at most one."""
        return next((version for version in reversed(self.versions) if version.status == status), None)

    @property
    def former(self) -> VersionView | None:
        """The version that was live before the live one and may be live again."""
        candidates = [v for v in self.versions if v.status == "superseded" and v.live_since is not None]
        return max(candidates, key=lambda version: (version.live_since or 0, version.number), default=None)

    def is_watched(self, policy: Policy, now_ms: int) -> bool:
        """Return whether the live version went live so lately that a failed gate still rolls it back."""
        live = self.only("live")
        return live is not None and now_ms - (live.live_since or 0) <= 1_000 * policy.watch_s

    @property
    def lock(self) -> str | None:
        """The reason why no version may be moved to more clients, or None."""
        if self.killed is not None:
            return f"killed: {self.killed}"
        if self.pinned is not None:
            return f"pinned to version {self.pinned}"
        return None if self.frozen is None else f"frozen: {self.frozen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of one gate.

    Attributes:
        outcome: `pass`, `fail`, or `wait` while the evidence does not suffice.
        reason: Why, for people.
        numbers: The numbers that it was computed from.
    """

    outcome: Outcome
    reason: str = ""
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)


Verdicts = Mapping[int, Mapping[str, Verdict]]
"""Version to gate to verdict; a gate that is missing waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A move of the controller.

    Attributes:
        version: Number of the version.
        from_status: Status that it has.
        to_status: Status that it gets.
        why: Why, for people.
        share: Share of the lineage's clients, for a move to canary.
        gate: Gate that failed; None if none did.
    """

    version: int
    from_status: Status
    to_status: Status
    why: str
    share: float | None = None
    gate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """No move.

    Attributes:
        reason: Why, for people.
        waits_for: Gates without sufficient evidence.
    """

    reason: str
    waits_for: tuple[str, ...] = ()


def next_move(
    view: LineageView, verdicts: Verdicts, policy: Policy, now_ms: int, *, bucket_share: float | None = None
) -> Move | Hold:
    """Return the controller's next move in a lineage.

    Args:
        view: The lineage.
        verdicts: Verdicts of the gates on its versions.
        policy: Its policy.
        now_ms: Epoch milliseconds.
        bucket_share: Share of all clients that the lineage has, by the running experiments.
    """
    if policy.mode == "direct":
        return Hold(reason="mode is direct: the trainer puts versions live")
    if view.lock is not None:
        return Hold(reason=view.lock)
    canary, live = view.only("canary"), view.only("live")
    failed = _failure(view, canary, live, verdicts=verdicts, policy=policy, now_ms=now_ms)
    if failed is not None:
        return failed
    newest = max((v.number for v in view.versions if v.status in {"verified", "canary", "live"}), default=0)
    for version in view.versions:
        if version.status == "verified" and version.number < newest:
            return _move(version, "superseded", f"skipped: version {newest} is newer")
    if canary is not None:
        return _from_canary(canary, verdicts, policy, now_ms)
    candidate = view.only("verified")
    if candidate is None:
        return Hold(reason="no verified version is newer than the live one")
    missing = _missing(verdicts, candidate, BEFORE_CANARY)
    if missing:
        return Hold(reason=_waiting(verdicts, candidate, missing), waits_for=missing)
    return _move(candidate, "canary", "gates 1 to 5 passed", share=policy.share(bucket_share))


def _failure(
    view: LineageView,
    canary: VersionView | None,
    live: VersionView | None,
    *,
    verdicts: Verdicts,
    policy: Policy,
    now_ms: int,
) -> Move | None:
    """Return the move that a failed gate demands; a rollback of the live version takes its canary along."""
    if live is not None and view.is_watched(policy, now_ms) and (gate := _failed_gate(verdicts, live.number)):
        return _failed(live, "rolled_back", verdicts, gate)
    if canary is not None and (gate := _failed_gate(verdicts, canary.number)):
        return _failed(canary, "rolled_back", verdicts, gate)
    for version in view.versions:
        if version.status in {"published", "verified"} and (gate := _failed_gate(verdicts, version.number)):
            return _failed(version, "rejected", verdicts, gate)
    return None


def failure_of(verdicts: Verdicts, number: int) -> str | None:
    """Return the reason of the first gate that a version failed, None if it failed none."""
    gate = _failed_gate(verdicts, number)
    return None if gate is None else f"{gate}: {verdicts[number][gate].reason}"


def _failed_gate(verdicts: Verdicts, number: int) -> str | None:
    own = verdicts.get(number, {})
    return next((gate for gate in GATES if gate in own and own[gate].outcome == "fail"), None)


def _failed(version: VersionView, to_status: Status, verdicts: Verdicts, gate: str) -> Move:
    why = f"{gate}: {verdicts[version.number][gate].reason}"
    return replace(_move(version, to_status, why), gate=gate)


def _from_canary(canary: VersionView, verdicts: Verdicts, policy: Policy, now_ms: int) -> Move | Hold:
    left_ms = (canary.canary_since or 0) + 1_000 * policy.canary_s - now_ms
    missing = _missing(verdicts, canary, GATES)
    if missing:
        return Hold(reason=_waiting(verdicts, canary, missing), waits_for=missing)
    if left_ms > 0:
        return Hold(reason=f"version {canary.number}: the canary lasts another {-(-left_ms // 1_000)} s")
    return _move(canary, "live", "gates 1 to 7 passed")


def _missing(verdicts: Verdicts, version: VersionView, gates: tuple[str, ...]) -> tuple[str, ...]:
    own = verdicts.get(version.number, {})
    return tuple(gate for gate in gates if gate not in own or own[gate].outcome != "pass")


def _waiting(verdicts: Verdicts, version: VersionView, missing: tuple[str, ...]) -> str:
    first = verdicts.get(version.number, {}).get(missing[0])
    why = first.reason if first is not None else "no evidence"
    return f"version {version.number} waits for {', '.join(missing)}: {why}"


def _move(version: VersionView, to_status: Status, why: str, share: float | None = None) -> Move:
    return Move(version=version.number, from_status=version.status, to_status=to_status, why=why, share=share)
