"""Reference pages of the documentation, generated from the code: `make docs` writes them."""

import sys
import types
import typing
from dataclasses import fields
from pathlib import Path

from deploy.configuration import ALIASES, sections
from stream.settings import keys, secrecy_of

_CONFIGURATION = """\
# Configuration reference

Generated from the settings records by `make docs`; edit the docstrings of the records instead of this page.

A setting comes from, later wins: its default, one TOML file (`--config FILE`, else `SHELFWISE_CONFIG`, else
`shelfwise.toml` in the working directory), the environment (`SHELFWISE_SECTION__KEY`), a flag of the command or
`--set SECTION.KEY=VALUE`. An unknown key is an error that names the nearest known one. `shelfwise config show` prints
every value with its origin.

    [kafka]
    broker = "kafka.example.org:9093"
    password_file = "/run/secrets/kafka"

A secret setting `x` also comes from the file named by `x_file`; its trailing line breaks are dropped. If both are set,
the command fails. Secrets are masked wherever settings are printed.

Three variables are no settings: `SHELFWISE_HOME` is the folder of everything that Shelfwise keeps on disk
(`.shelfwise`), `SHELFWISE_CONFIG` names the TOML file, `SHELFWISE_DATA` is the folder of research logs for replays.
"""


def configuration() -> str:
    """Return the page `docs/configuration.md`."""
    short = {path: variable for variable, path in ALIASES.items() if path}
    lines = [_CONFIGURATION]
    for section, kind in sections().items():
        hints = typing.get_type_hints(kind)
        declared = {field.name: field for field in fields(kind)}
        lines += [f"## [{section}]", "", _first_sentence(kind), ""]
        lines += ["| key | type | default | description |", "|---|---|---|---|"]
        for key, description in keys(kind).items():
            field = declared.get(key)
            shown = "" if field is None or secrecy_of(field) else _default(field.default)
            alias = short.get(f"{section}.{key}")
            note = f" Also `{alias}`." if alias else ""
            shape = _type(hints[key]) if field is not None else "path"
            lines.append(f"| `{key}` | {shape} | {shown} | {_cell(description)}{note} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path) -> list[Path]:
    """Write the pages into the folder of the documentation and return their paths."""
    path = folder / "configuration.md"
    path.write_text(configuration())
    return [path]


def _first_sentence(kind: type) -> str:
    return (kind.__doc__ or "").split("\n", 1)[0].strip()


def _default(value: object) -> str:
    return "" if value == "" else f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _type(hint: object) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(hint) if choice != "")
    if isinstance(hint, types.UnionType):
        return " or ".join(_type(part) for part in typing.get_args(hint))
    names: dict[object, str] = {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}
    return names.get(hint, str(hint))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        sys.stdout.write(f"wrote {written}\n")
