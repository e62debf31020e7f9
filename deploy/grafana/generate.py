"""Generator of the committed dashboard files, and their comparison with the builders."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from deploy.grafana import model
from deploy.grafana.experiment import EXPERIMENT
from deploy.grafana.loop import LOOP

FOLDER_UID = "shelfwise"
FOLDER_TITLE = "Shelfwise"
DASHBOARDS: tuple[model.Dashboard, ...] = (LOOP, EXPERIMENT)
COMMITTED = Path(__file__).parent / "dashboards"


def rendered() -> Mapping[str, bytes]:
    """Return the exact bytes of each dashboard by file name."""
    return {f"{dashboard.uid}.json": encode(model.render(dashboard)) for dashboard in DASHBOARDS}


def encode(document: model.Json) -> bytes:
    """Return the committed form of a dashboard: sorted keys, two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def write(folder: Path = COMMITTED) -> list[Path]:
    """Write every dashboard and return the files that changed."""
    changed = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in rendered().items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(path)
    return changed


def drift(folder: Path = COMMITTED) -> list[str]:
    """Return the differences between `folder` and the builders: stale, missing and unknown files."""
    wanted = rendered()
    present = {path.name: path.read_bytes() for path in sorted(folder.glob("*.json"))}
    messages = [f"{name}: missing" for name in wanted if name not in present]
    messages += [
        f"{name}: differs from its builder" for name in wanted if name in present and present[name] != wanted[name]
    ]
    messages += [f"{name}: no builder makes it" for name in present if name not in wanted]
    return messages
