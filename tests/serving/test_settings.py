from typing import Any

import pytest

from serving.settings import ServingSettings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("deadline_ms", 0.0, "more than 0"),
        ("poll_s", -1.0, "more than 0"),
        ("collect_bytes", 0, "more than 0"),
        ("max_connections", 0, "more than 0"),
        ("headers_timeout_s", 0.0, "more than 0"),
        ("body_timeout_s", -1.0, "more than 0"),
        ("keep_alive_s", 0.0, "more than 0"),
        ("write_timeout_s", 0.0, "more than 0"),
        ("swap_share", 0.5, "at least 0 and less than 0.5"),
        ("swap_share", -0.1, "at least 0 and less than 0.5"),
        ("swap_reach", 0, "at least 1"),
        ("num_scored", 31, "1 to 30"),
        ("num_scored", 0, "1 to 30"),
        ("port", 65_536, "0 to 65535"),
        ("spool_bytes", -1, "0 or more"),
        ("drain_s", -0.5, "0 or more"),
        ("workers", -1, "0 or more"),
        ("workers_port", 65_535, "ports up to 65535"),
        ("collect_currency", "eur", "three capital letters"),
        ("collect_currency", "XXX", "three capital letters"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: float | str, expected: str) -> None:
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} = {value!r}: expected {expected}"):
        ServingSettings(**changes)


def test_only_torch_compiles() -> None:
    ServingSettings(runtime="onnx")
    ServingSettings(compiled=True)
    with pytest.raises(ValueError, match="compiled = true, runtime = onnx"):
        ServingSettings(runtime="onnx", compiled=True)


def test_only_onnx_runtime_has_int8() -> None:
    ServingSettings(runtime="onnx", precision="int8")
    with pytest.raises(ValueError, match="precision = int8, runtime = torch: expected runtime = onnx"):
        ServingSettings(precision="int8")


def test_the_bounds_are_accepted() -> None:
    ServingSettings(num_scored=1, port=0, spool_bytes=0, drain_s=0)
    ServingSettings(num_scored=30, port=65_535, collect_currency="EUR")
