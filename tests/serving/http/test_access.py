"""Every path with every role, and what is no valid token."""

from collections.abc import Sequence
from datetime import date

import pytest

from serving.http.access import OPEN, ROLES, Access
from serving.http.app import create
from serving.http.rate_limit import RateLimit
from serving.tokens import Role, Token, make
from stream.schemas.times import DAY_MS
from tests.serving.world import World

PATHS = {
    "/v1/rank": Role.SCORE,
    "/v1/events": Role.COLLECT,
    "/metrics": Role.READ,
    "/openapi.json": Role.READ,
    "/experiments": Role.READ,
    "/experiments/{key}": Role.READ,
    "/v1/annotations": Role.ANNOTATE,
}


def made(role: Role, fill: int, expires: date | None = None) -> tuple[str, Token]:
    """Return a token of equal bytes, and its line."""
    return make(role, lambda num: bytes([fill] * num), expires)


MADE = {role: made(role, ord(role.value[0])) for role in Role}
NOW_MS = 1_803_859_200_000


def access(tokens: Sequence[Token] | None = None, *, rate: float = 0.0, now_ms: int = NOW_MS) -> Access:
    known = [token for _, token in MADE.values()] if tokens is None else tokens
    return Access(lambda: known, RateLimit(rate, 1, lambda: 0.0), lambda: now_ms)


def bearer(role: Role) -> list[bytes]:
    return [b"Bearer " + MADE[role][0].encode()]


def status(found: Access, path: str, authorization: Sequence[bytes]) -> int | None:
    denial = found.denial(path, authorization)
    return None if denial is None else denial.status


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("role", Role)
def test_a_path_is_open_to_its_role_only(path: str, role: Role) -> None:
    denial = access().denial(path, bearer(role))
    if PATHS[path] is role:
        assert denial is None
        return
    assert denial is not None
    assert denial.status == 403
    assert denial.error == f"the bearer token has not the role {PATHS[path].value}"
    assert dict(denial.headers)[b"www-authenticate"] == (
        b'Bearer error="insufficient_scope", scope="%b"' % PATHS[path].value.encode()
    )


def test_every_route_of_the_application_has_a_role_or_is_open(tmp_path: object) -> None:
    assert ROLES == PATHS
    routes = {route.path.replace(":str}", "}") for route in create(World(tmp_path).service()).routes}  # type: ignore[arg-type] # a folder
    assert routes == set(ROLES) | OPEN


def test_every_experiment_has_the_role_of_its_path() -> None:
    for key in ("a", "a%2Fb", "..", "a/b", ""):
        assert access().denial(f"/experiments/{key}", bearer(Role.READ)) is None
        denial = access().denial(f"/experiments/{key}", bearer(Role.SCORE))
        assert denial is not None
        assert denial.status == 403
    assert access().denial("/experimentsx", bearer(Role.READ)).status == 404  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/annotate"])
def test_probes_and_the_page_without_data_are_open(path: str) -> None:
    for authorization in ([], [b"Bearer wrong"], bearer(Role.READ)):
        assert access().denial(path, authorization) is None


@pytest.mark.parametrize("path", [*PATHS, "/livez"])
def test_without_tokens_everybody_may_call(path: str) -> None:
    for authorization in ([], [b"Bearer wrong"], [b"x", b"y"]):
        assert access([]).denial(path, authorization) is None


@pytest.mark.parametrize("path", ["/v1/rank/", "//v1/rank", "/V1/rank", "/v1/rank\x00", "/metrics/", "/", ""])
def test_another_spelling_of_a_path_is_not_found_with_any_token_or_without_any(path: str) -> None:
    for role in Role:
        assert status(access(), path, bearer(role)) == 404
    assert status(access(), path, []) == 404
    assert status(access([]), path, []) == 404


TOKEN = MADE[Role.SCORE][0].encode()


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [TOKEN],
        [b"Basic " + TOKEN],
        [b"Bearer\t" + TOKEN],
        [b"Bearer " + TOKEN + b" more"],
        [b"Bearer " + TOKEN, b"Bearer " + TOKEN],
        [b"Bearer " + TOKEN, b"Bearer wrong"],
        [b"Bearer " + TOKEN + b", Bearer " + TOKEN],
        [b"Bearer \xc3\xa4\xff\x00"],
        ["Bearer ｓｈｅｌｆ".encode()],
        [b"Bearer " + b"a" * 257],
        [b"Bearer " + b"a" * 65_000],
        [b"Bearer =" + TOKEN],
    ],
)
def test_what_is_no_single_bearer_token_is_401(authorization: list[bytes]) -> None:
    denial = access().denial("/v1/rank", authorization)
    assert denial is not None
    assert (denial.status, dict(denial.headers)) == (401, {b"www-authenticate": b"Bearer"})
    assert denial.error == "expected one Authorization header with a bearer token"


@pytest.mark.parametrize(
    "sent",
    [TOKEN[:-1], TOKEN + b"A", TOKEN.upper(), TOKEN + b"=", MADE[Role.SCORE][1].sha256.hex().encode(), b"a" * 256],
)
def test_an_unknown_token_is_401(sent: bytes) -> None:
    denial = access().denial("/v1/rank", [b"Bearer " + sent])
    assert denial is not None
    assert denial.status == 401
    assert dict(denial.headers) == {b"www-authenticate": b'Bearer error="invalid_token"'}
    assert sent.decode() not in denial.error


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
def test_the_scheme_has_no_case(scheme: bytes) -> None:
    assert access().denial("/v1/rank", [scheme + TOKEN + b" "]) is None


def test_two_tokens_of_a_role_are_valid_until_each_expires() -> None:
    day = date(2027, 3, 1)
    (old, first), (new, second) = made(Role.SCORE, 1, day), made(Role.SCORE, 2)
    for now_ms, statuses in ((NOW_MS - 1, [None, None]), (NOW_MS, [401, None]), (NOW_MS + DAY_MS, [401, None])):
        found = access([first, second], now_ms=now_ms)
        assert [status(found, "/v1/rank", [b"Bearer " + each.encode()]) for each in (old, new)] == statuses


def test_an_expired_pair_lets_nobody_in_though_probes_answer() -> None:
    pair = [made(Role.SCORE, fill, date(2027, 2, 28)) for fill in (1, 2)]
    found = access([token for _, token in pair])
    assert [status(found, "/v1/rank", [b"Bearer " + text.encode()]) for text, _ in pair] == [401, 401]
    assert [status(found, "/v1/rank", []), status(found, "/readyz", [])] == [401, None]


def test_one_token_may_have_several_roles() -> None:
    both = [MADE[Role.SCORE][1], Token(role=Role.READ, sha256=MADE[Role.SCORE][1].sha256)]
    found = access(both)
    refused = [path for path in PATHS if status(found, path, bearer(Role.SCORE)) is not None]
    assert refused == ["/v1/events", "/v1/annotations"]


def test_the_rate_is_that_of_a_token_over_all_its_paths() -> None:
    found = access(rate=0.5)
    assert found.denial("/metrics", bearer(Role.READ)) is None
    denial = found.denial("/openapi.json", bearer(Role.READ))
    assert denial is not None
    assert (denial.status, dict(denial.headers)) == (429, {b"retry-after": b"2"})
    assert found.denial("/v1/rank", bearer(Role.SCORE)) is None


def test_what_is_refused_does_not_count() -> None:
    found = access(rate=0.5)
    assert [status(found, "/metrics", bearer(Role.SCORE)) for _ in range(5)] == [403] * 5
    assert found.denial("/v1/rank", bearer(Role.SCORE)) is None
