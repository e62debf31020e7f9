"""Gateway to a Grafana server, and the only importer of grafana_api.

The gateway addresses objects by uid only, accepts empty answers, refuses to send a token unencrypted over a network,
asks busy and unreachable servers again, and reads back every write. `grafana/calls.json` lists the calls that it makes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

import msgspec
from grafana_api.grafana_api import GrafanaException
from grafana_api.grafana_face import GrafanaFace
from requests import RequestException, Response

from deploy.grafana.compare import differences, normalised
from deploy.grafana.model import Json
from deploy.grafana.settings import GrafanaSettings
from stream.errors import ConfigError, ShelfwiseError
from stream.loopback import is_loopback

OLDEST_MAJOR = 11
_BUSY = frozenset({429, 502, 503, 504})
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0


class GrafanaError(ShelfwiseError):
    """Failure of a call: Grafana is unreachable, refused, or returned another object than was written.

    Attributes:
        status: HTTP status of the last answer; 0 if there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Answer of `/health`."""

    version: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Folder of dashboards."""

    uid: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDashboard:
    """Dashboard as the server stores it."""

    model: Json
    folder_uid: str
    provisioned: bool


class GrafanaGateway:
    """Gateway to one Grafana server.

    Args:
        settings: Address and limits.
        token: Token of a service account.
        sleep: Called with the seconds to wait between tries.

    Raises:
        ConfigError: If the URL is unusable, or is plain http to another machine.
    """

    def __init__(self, settings: GrafanaSettings, token: str, *, sleep: Callable[[float], None]) -> None:
        url = _checked(settings.url)
        self._shown = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
        self._attempts = settings.attempts
        self._sleep = sleep
        path = url.path.strip("/")
        face = GrafanaFace(
            auth=token,
            host=url.netloc,
            protocol=url.scheme,
            url_path_prefix=f"{path}/" if path else "",
            timeout=settings.timeout_s,
        )
        self._face = face
        self._status = 0
        self._body = b""
        # A redirect would turn a POST into a GET, and may send the token to another server.
        face.api.s.max_redirects = 0
        if url.scheme == "http":
            face.api.s.trust_env = False
        face.api.s.hooks["response"].append(self._note)

    def health(self) -> Health:
        """Return version and database state.

        Raises:
            GrafanaError: If the server is no Grafana, or an unsupported version.
        """
        answer = self._call("GET /health", lambda: self._face.api.GET("/health"))
        version = str(answer.get("version", ""))
        major = version.partition(".")[0]
        if not major.isdigit():
            raise GrafanaError(f"{self._shown}: /health names no version; is this a Grafana?")
        if int(major) < OLDEST_MAJOR:
            raise GrafanaError(f"{self._shown}: expected Grafana {OLDEST_MAJOR} or newer, found {version}")
        return Health(version=version, database=str(answer.get("database", "")))

    def datasource_types(self) -> list[str]:
        """Return the plugin ids of all data sources."""
        answer = self._call_list("GET /datasources", self._face.datasource.list_datasources)
        return sorted({str(entry.get("type", "")) for entry in answer})

    def folder(self, uid: str) -> Folder | None:
        """Return a folder, or None if no folder has that uid."""
        path = _segment(uid)
        answer = self._find(f"GET /folders/{path}", lambda: self._face.folder.get_folder(path))
        return None if answer is None else Folder(uid=str(answer.get("uid")), title=str(answer.get("title")))

    def ensure_folder(self, wanted: Folder) -> bool:
        """Create or rename a folder to match `wanted`, and return whether anything was written.

        Raises:
            GrafanaError: If the folder read back is another.
        """
        found = self.folder(wanted.uid)
        if found == wanted:
            return False
        path = _segment(wanted.uid)
        if found is None:
            self._create_folder(wanted)
        else:
            self._write(
                f"PUT /folders/{path}",
                lambda: self._face.folder.update_folder(path, wanted.title, overwrite=True),
            )
        after = self.folder(wanted.uid)
        if after != wanted:
            raise GrafanaError(f"{self._shown}: wrote {wanted}, read back {after}")
        return True

    def _create_folder(self, wanted: Folder) -> None:
        try:
            self._write("POST /folders", lambda: self._face.folder.create_folder(wanted.title, uid=wanted.uid))
        except GrafanaError as error:
            # A try whose answer was lost, or another user, has created the folder: reading it back decides.
            if error.status not in {409, 412}:
                raise

    def dashboard(self, uid: str) -> StoredDashboard | None:
        """Return a dashboard, or None if no dashboard has that uid."""
        path = _segment(uid)
        answer = self._find(f"GET /dashboards/uid/{path}", lambda: self._face.dashboard.get_dashboard(path))
        if answer is None:
            return None
        model, meta = answer.get("dashboard"), answer.get("meta")
        if not isinstance(model, dict) or not isinstance(meta, dict):
            raise GrafanaError(f"{self._shown}: expected dashboard and meta of '{uid}', got {sorted(answer)}")
        return StoredDashboard(
            model=normalised(model),
            folder_uid=str(meta.get("folderUid", "")),
            provisioned=meta.get("provisioned") is True,
        )

    def put_dashboard(self, model: Json, folder_uid: str, message: str) -> None:
        """Create or overwrite the dashboard with the uid of the model.

        Guarantees: idempotent; what the server holds afterwards was read back and compared.

        Raises:
            GrafanaError: If the server refuses, or holds something else afterwards.
        """
        uid = str(model["uid"])
        body = {"dashboard": model | {"id": None}, "folderUid": folder_uid, "message": message, "overwrite": True}
        self._write("POST /dashboards/db", lambda: self._face.dashboard.update_dashboard(body))
        after = self.dashboard(uid)
        if after is None:
            raise GrafanaError(f"{self._shown}: dashboard '{uid}' was accepted but does not exist")
        left = differences(model, after.model)
        if left or after.folder_uid != folder_uid:
            where = left[0] if left else f"folder: ours '{folder_uid}', theirs '{after.folder_uid}'"
            raise GrafanaError(f"{self._shown}: dashboard '{uid}' was read back with {len(left)} differences: {where}")

    def _find(self, name: str, call: Callable[[], object]) -> Json | None:
        try:
            return self._call(name, call)
        except GrafanaError as error:
            if error.status == 404:
                return None
            raise

    def _write(self, name: str, call: Callable[[], object]) -> None:
        self._answer(name, call)

    def _call(self, name: str, call: Callable[[], object]) -> Json:
        answer = self._answer(name, call)
        if not isinstance(answer, dict):
            raise GrafanaError(f"{self._shown}: {name}: expected an object, got {type(answer).__name__}", self._status)
        return answer

    def _call_list(self, name: str, call: Callable[[], object]) -> list[Json]:
        answer = self._answer(name, call)
        try:
            return msgspec.convert(answer, list[Json])
        except msgspec.ValidationError as error:
            raise GrafanaError(f"{self._shown}: {name}: {error}", self._status) from error

    def _answer(self, name: str, call: Callable[[], object]) -> object:
        for attempt in range(1, self._attempts + 1):
            self._status, self._body = 0, b""
            try:
                answer = call()
            except (GrafanaException, RequestException, ValueError, TypeError) as error:
                if 200 <= self._status < 300 and not self._body:
                    return None
                if not self._worth_another(error) or attempt == self._attempts:
                    raise self._failure(name, error) from error
            else:
                return answer
            self._sleep(min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S))
        raise AssertionError("the last attempt returns or raises")

    def _worth_another(self, error: Exception) -> bool:
        unreachable = self._status == 0 and isinstance(error, RequestException)
        return unreachable or self._status in _BUSY

    def _failure(self, name: str, error: Exception) -> GrafanaError:
        if self._status == 0:
            return GrafanaError(f"{self._shown}: {name}: {error}")
        text = self._body.decode(errors="replace").strip()[:200]
        hint = {
            401: " (is the token right?)",
            403: " (the service account needs the role Editor)",
        }.get(self._status, " (redirects are not followed; give the final address)" if self._status // 100 == 3 else "")
        return GrafanaError(f"{self._shown}: {name}: HTTP {self._status}{hint}: {text}", self._status)

    def _note(self, response: Response, *_args: object, **_keywords: object) -> None:
        # grafana_api decodes every answer and loses the status of empty ones and of those that are no JSON.
        self._status, self._body = response.status_code, response.content


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"grafana.url: expected https://HOST[:PORT][/PATH], got '{url}'")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("grafana.url: expected no user, query or fragment; set grafana.token for the token")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f"grafana.url: '{url}' would send the token unencrypted; use https")
    return parts


def _segment(uid: str) -> str:
    return quote(uid, safe="")


def connect(settings: GrafanaSettings, *, sleep: Callable[[float], None]) -> GrafanaGateway:
    """Return a gateway to a server, after a check that it answers and is supported.

    Raises:
        ConfigError: If address or token are missing or unusable.
        GrafanaError: If the server cannot be reached or is too old.
    """
    gateway = GrafanaGateway(settings, settings.required_token(), sleep=sleep)
    gateway.health()
    return gateway
