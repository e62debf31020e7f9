"""Graphs of ONNX that users bring by path, run on the CPU."""

from pathlib import Path
from typing import Any

import onnxruntime as ort

from stream.errors import ConfigError


def open_graph(path: Path) -> Any:
    """Return the session of a graph.

    Raises:
        ConfigError: If the file is missing or no graph.
    """
    try:
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(f"{path}: no graph of ONNX: {error!r:.200}") from error
