"""Session of ONNX Runtime on one thread, with the weights of a version; imports no torch.

Source: ONNX Runtime, "Python API".
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Values = Mapping[str, ort.OrtValue]


def value_of(array: NDArray[np.generic]) -> ort.OrtValue:
    """Return an array as a value of the runtime, which reads it where it is."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


class Session:
    """A model whose dense weights the runtime copies, and whose tables of ids it reads where they are.

    Attributes:
        inputs: Names of the inputs that are no tables.
    """

    def __init__(self, dense: Sequence[str], model: bytes, weights: Values) -> None:
        """Prepare the runtime.

        Args:
            dense: Names of the dense weights, whose values are not in the model.
            model: The serialized ONNX model.
            weights: Values by name: all dense weights, and the tables of ids.

        Raises:
            Exception: If the model is damaged, or the weights are not its own.
        """
        options = ort.SessionOptions()
        # The arena takes more than lists of 30 need, and saves no time that can be measured.
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_external_initializers(list(dense), [weights[name] for name in dense])
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in self._session.get_inputs()]
        self._tables = {name: weights[name] for name in names if name.startswith("rows.")}
        self.inputs = [name for name in names if name not in self._tables]

    def width_of(self, name: str) -> int:
        """Return the length of the last axis of an input."""
        (width,) = (each.shape[-1] for each in self._session.get_inputs() if each.name == name)
        return int(width)

    def run(self, outputs: Sequence[str], inputs: Values) -> list[ort.OrtValue]:
        """Return the outputs of these names.

        Args:
            outputs: Their names.
            inputs: Values of the inputs that are no tables.

        Raises:
            RuntimeError: If the runtime cannot compute them.
        """
        try:
            found: list[ort.OrtValue] = self._session.run_with_ort_values(list(outputs), {**inputs, **self._tables})
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        return found
