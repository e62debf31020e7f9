"""Requests to a running ranking service."""

import http.client
import threading
from urllib.parse import urlsplit

import msgspec

from serving.http.openapi import RANK
from serving.schemas import RankAnswer
from stream.errors import ConfigError, SchemaError, ShelfwiseError
from stream.schemas.problems import Problem

MAX_ANSWER_BYTES = 4 * 1024 * 1024
_UNAVAILABLE = 503
_DEFAULT_PORTS = {"http": 80, "https": 443}


class UnreachableError(ShelfwiseError):
    """An address at which no ranking service answers."""


class UnavailableError(UnreachableError):
    """No answer, or that of an overloaded or unready service: the same request may succeed later."""


class RankClient:
    """Connections to a ranking service, one kept per thread."""

    def __init__(self, base_url: str, *, timeout_s: float = 10.0, token: str = "") -> None:
        """Check the address; nothing is opened yet.

        Args:
            base_url: Address of the service.
            timeout_s: Seconds until a connection or an answer is given up.
            token: Bearer token of the role `score`; empty sends none.

        Raises:
            ConfigError: If the address is not of the form http://HOST:PORT or https://HOST:PORT.
        """
        parts = urlsplit(base_url)
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"'{base_url}': {error}") from error
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ConfigError(f"'{base_url}': expected http://HOST:PORT")
        self._url = base_url
        self._is_secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port or _DEFAULT_PORTS[parts.scheme]
        self._path = parts.path.rstrip("/") + RANK
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._kept = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def rank(self, body: bytes) -> RankAnswer:
        """Post one request and return the answer.

        Raises:
            SchemaError: If the service refuses the request; the message names the field and its value.
            UnavailableError: If no service answers, or it is overloaded or not ready.
            UnreachableError: If the answer is not a ranking service's.
        """
        try:
            status, raw = self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise UnavailableError(f"{self._url}: {error!r}") from error
        if status >= 300:
            raise self._refused(status, raw)
        try:
            return msgspec.json.decode(raw, type=RankAnswer)
        except msgspec.MsgspecError as error:
            raise UnreachableError(f"{self._url}: answer not understood: {error}") from error

    def close(self) -> None:
        """Close the connections of all threads; no request may be under way."""
        for connection in self._opened:
            connection.close()
        self._opened.clear()

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        connection.request("POST", self._path, body, self._headers)
        response = connection.getresponse()
        if response.length is not None and response.length <= MAX_ANSWER_BYTES:
            return response.status, response.read()
        # A connection with an answer of unknown or excessive length is not used again.
        raw = response.read(MAX_ANSWER_BYTES)
        self._drop()
        return response.status, raw

    def _connection(self) -> http.client.HTTPConnection:
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if kept is None:
            kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
            kept = kind(self._host, self._port, timeout=self._timeout_s)
            self._kept.connection = kept
            self._opened.append(kept)
        return kept

    def _drop(self) -> None:
        kept: http.client.HTTPConnection | None = getattr(self._kept, "connection", None)
        if kept is not None:
            kept.close()
            self._opened.remove(kept)
            self._kept.connection = None

    def _refused(self, status: int, raw: bytes) -> ShelfwiseError:
        if status == _UNAVAILABLE:
            return UnavailableError(f"{self._url}: answered {status}: {raw[:300].decode(errors='replace')}")
        try:
            problem = msgspec.json.decode(raw, type=Problem)
        except msgspec.MsgspecError:
            return UnreachableError(f"{self._url}: answered {status}")
        where = f"{problem.field} = {problem.value}: " if problem.field else ""
        return SchemaError("refused", f"{where}{problem.error} (status {status})")


def rank(base_url: str, body: bytes, *, timeout_s: float = 10.0, token: str = "") -> RankAnswer:
    """Post one request over a connection of its own and return the answer.

    Raises:
        SchemaError: If the service refuses the request; the message names the field and its value.
        UnreachableError: If no service answers, or the answer is not a ranking service's.
    """
    try:
        client = RankClient(base_url, timeout_s=timeout_s, token=token)
    except ConfigError as error:
        raise UnreachableError(str(error)) from error
    try:
        return client.rank(body)
    finally:
        client.close()
