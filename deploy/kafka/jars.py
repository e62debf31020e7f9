"""Fetch the broker's jars from Maven Central by the pinned POM and verify each against its recorded sha256."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec

from stream.errors import BusError

Report = Callable[[str], None]
MIN_JAVA = 17
_PLUGIN_GOAL = "dependency:copy-dependencies"


def java() -> str | None:
    """Return the path of a Java of at least version 17, or None."""
    found = shutil.which("java")
    if found is None:
        return None
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return found if version and int(version.group(1)) >= MIN_JAVA else None


def expected() -> dict[str, str]:
    """Return the file name and sha256 of every jar that the pinned POM resolves to."""
    return msgspec.json.decode(files("deploy.kafka").joinpath("jars.json").read_bytes(), type=dict[str, str])


def missing(folder: Path) -> list[str]:
    """Return the names of jars that `folder` lacks; contents are verified once, when they are fetched."""
    return [name for name in expected() if not (folder / name).is_file()]


def obtainable(folder: Path) -> bool:
    """Return whether the jars are there or Maven could fetch them."""
    return not missing(folder) or shutil.which("mvn") is not None


def ensure(folder: Path, report: Report) -> Path:
    """Fetch the jars into `folder` unless they are there, and return it.

    Guarantees: complete and verified, or unchanged; a second call does nothing.

    Raises:
        BusError: If Maven is missing or fails, or a jar differs from the recorded sha256.
    """
    if not missing(folder):
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise BusError(f"the local Kafka needs Maven (mvn) once, to fetch its jars into {folder}")
    # Maven reads a relative output folder from where its POM lies.
    folder = folder.resolve()
    report(f"downloading Apache Kafka ({len(expected())} jars, 44 MB) from Maven Central into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="jars-") as scratch:
        fetched = Path(scratch) / "jars"
        pom = Path(scratch) / "pom.xml"
        pom.write_bytes(files("deploy.kafka").joinpath("pom.xml").read_bytes())
        command = [maven, "-q", "-B", "-C", "-f", str(pom), _PLUGIN_GOAL, "-DincludeScope=runtime"]
        run = subprocess.run(  # noqa: S603
            [*command, f"-DoutputDirectory={fetched}"], capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise BusError(f"Maven could not fetch the Kafka jars: {_first_error(run.stdout + run.stderr)}")
        _verify(fetched)
        folder.mkdir(parents=True, exist_ok=True)
        for jar in fetched.iterdir():
            jar.replace(folder / jar.name)
    return folder


def _verify(folder: Path) -> None:
    for name, digest in expected().items():
        jar = folder / name
        if not jar.is_file():
            raise BusError(f"Maven did not deliver {name}")
        found = hashlib.sha256(jar.read_bytes()).hexdigest()
        if found != digest:
            raise BusError(f"{name}: expected sha256 {digest}, got {found}")
    for surplus in {path.name for path in folder.iterdir()} - set(expected()):
        raise BusError(f"Maven delivered {surplus}, which deploy/kafka/jars.json does not list")


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "ERROR" in line]
    return lines[0] if lines else output.strip()[-300:] or "no message"
