"""A search for product code that no product module uses, by vulture, with the names that others use.

Run it as `python -m tests.architecture.dead_code`. It prints one `file:line: message` for each finding and exits with
status 1 if there is any. Tests do not count as users: code that only tests need belongs to the tests.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).parents[2]
PRODUCT = ("stream", "abtest", "trainer", "serving", "deploy")

# Names that a library calls or reads.
LIBRARIES = {
    "Faust's consumer and tables, overridden": (
        "_add_gap",
        "_fetch_max_bytes",
        "_fetch_max_wait_ms",
        "_fetch_min_bytes",
        "_isolation_level",
        "_new_consumer_thread",
        "_new_offset",
        "apply_changelog_batch",
        "getmany",
        "offset_from",
        "offset_to",
        "verify_event_path",
    ),
    "aiokafka's fetcher, overridden": ("_consumer_record",),
    "http.server and socketserver": (
        "address_family",
        "client_address",
        "daemon_threads",
        "do_HEAD",
        "handle_error",
        "log_message",
        "request_queue_size",
        "server_name",
        "server_port",
        "server_version",
        "sys_version",
    ),
    "onnx": ("data_location", "data_type", "raw_data"),
    "ONNX Runtime": (
        "enable_cpu_mem_arena",
        "graph_optimization_level",
        "inter_op_num_threads",
        "intra_op_num_threads",
        "optimized_model_filepath",
    ),
    "requests": ("max_redirects", "trust_env"),
    "torch": ("recompile_limit", "reset_parameters", "symbolic"),
    "torchvision's networks": ("fc",),
    "uvicorn": ("data_received", "disconnected", "flow", "should_exit"),
    "sqlite3": ("isolation_level",),
    "io.RawIOBase": ("readable", "readinto"),
    "the interpreter, for `with`": ("trace",),
}
# Other names, each with its reason.
KEPT = {"_opening": "keeps a running task from being collected"}


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    calls = [each.func for each in node.decorator_list if isinstance(each, ast.Call)]
    return any(isinstance(each, ast.Attribute) and each.attr in {"command", "callback"} for each in calls)


def _not_code(path: Path) -> set[tuple[str, int]]:
    """Return name and line of fields of records, protocol methods and commands of a module.

    Records are written and read as a whole, and Typer calls commands.
    """
    found: set[tuple[str, int]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            is_protocol = any(getattr(base, "id", "") == "Protocol" for base in node.bases)
            is_enum = any(getattr(base, "id", "").endswith("Enum") for base in node.bases)
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    found.add((each.target.id, each.lineno))
                elif is_enum and isinstance(each, ast.Assign):
                    found |= {(target.id, each.lineno) for target in each.targets if isinstance(target, ast.Name)}
                elif is_protocol and isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add((each.name, each.lineno))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_command(node):
            found.add((node.name, node.decorator_list[0].lineno))
    return found


def findings() -> Iterator[str]:
    """Yield unused code, and allowed names that are used or gone."""
    search = Vulture()
    search.scavenge([str(ROOT / name) for name in PRODUCT], exclude=["*/migrations/versions/*"])
    allowed = {name for names in LIBRARIES.values() for name in names} | set(KEPT)
    reported = set()
    exempt: dict[Path, set[tuple[str, int]]] = {}
    fields = {name for path in _modules() for name, _ in exempt.setdefault(path, _not_code(path))}
    for item in search.get_unused_code(min_confidence=60):
        reported.add(item.name)
        path = Path(item.filename)
        is_field = item.typ in {"variable", "attribute"} and item.name in fields
        if item.name not in allowed and not is_field and (item.name, item.first_lineno) not in exempt[path]:
            yield f"{path.relative_to(ROOT)}:{item.first_lineno}: unused {item.typ} '{item.name}'"
    for name in sorted(allowed - reported):
        yield f"tests/architecture/dead_code.py:1: '{name}' is allowed without need"


def _modules() -> list[Path]:
    return [path for name in PRODUCT for path in sorted((ROOT / name).rglob("*.py"))]


def main() -> int:
    """Print all findings; return the exit status."""
    found = list(findings())
    for each in found:
        sys.stdout.write(f"{each}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
