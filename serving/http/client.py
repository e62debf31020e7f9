"""One request to a running ranking service."""

from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import msgspec

from serving.http.openapi import RANK
from serving.schemas import RankAnswer
from stream.errors import SchemaError, ShelfwiseError
from stream.schemas.problems import Problem

MAX_ANSWER_BYTES = 4 * 1024 * 1024


class UnreachableError(ShelfwiseError):
    """An address at which no ranking service answers."""


def rank(base_url: str, body: bytes, *, timeout_s: float = 10.0) -> RankAnswer:
    """Post one request and return the answer.

    Raises:
        SchemaError: If the service refuses the request; the message names the field and its value.
        UnreachableError: If no service answers, or the answer is not a ranking service's.
    """
    if not base_url.startswith(("http://", "https://")):
        raise UnreachableError(f"'{base_url}': expected an address that starts with http:// or https://")
    request = Request(base_url.rstrip("/") + RANK, data=body, headers={"content-type": "application/json"})  # noqa: S310 - the scheme was checked
    try:
        with urlopen(request, timeout=timeout_s) as response:  # noqa: S310 - the scheme was checked
            return msgspec.json.decode(response.read(MAX_ANSWER_BYTES), type=RankAnswer)
    except HTTPError as error:
        raise _refused(error) from error
    except (URLError, OSError, msgspec.MsgspecError) as error:
        raise UnreachableError(f"{base_url}: {error}") from error


def _refused(error: HTTPError) -> ShelfwiseError:
    try:
        problem = msgspec.json.decode(error.read(MAX_ANSWER_BYTES), type=Problem)
    except msgspec.MsgspecError:
        return UnreachableError(f"{error.url}: answered {error.code}")
    where = f"{problem.field} = {problem.value}: " if problem.field else ""
    return SchemaError("refused", f"{where}{problem.error} (status {error.code})")
