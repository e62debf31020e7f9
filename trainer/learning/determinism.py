"""The conditions of bit-equal weights: device, threads and algorithms of torch.

Source: docs/training.md, "From sessions to batches".
"""

import torch

from stream.errors import ConfigError


def make_deterministic(threads: int) -> None:
    """Set the threads and algorithms that bit-equal weights depend on, for the whole process."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)


def environment() -> dict[str, str]:
    """Return the conditions of bit-equal weights, as recorded in checkpoints."""
    return {
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def auto_device(wanted: str) -> torch.device:
    """Return the device named `cpu` or `cuda`; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: If this machine has no such device.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if wanted not in ({"cpu", "cuda"} if has_gpu else {"cpu"}):
        here = "cpu, cuda or auto" if has_gpu else "cpu, or auto: torch finds no GPU here"
        raise ConfigError(f"--device {wanted}: expected {here}")
    return torch.device(wanted)
