"""The conditions of bit-equal weights are set, and recorded as they are."""

from collections.abc import Iterator

import pytest
import torch

from stream.errors import ConfigError
from trainer.learning.determinism import auto_device, environment, make_deterministic


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads, algorithms = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(algorithms)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_algorithms_are_set_and_recorded(threads: int) -> None:
    torch.use_deterministic_algorithms(mode=False)
    make_deterministic(threads)
    assert torch.are_deterministic_algorithms_enabled()
    assert environment() == {
        "torch": str(torch.__version__),
        "threads": str(threads),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(has_gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert auto_device("auto") == torch.device(expected)
    assert auto_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "mps", "meta", "tpu", ""])
def test_a_device_that_is_not_here_is_refused_by_name(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"--device {wanted}: expected cpu, or auto"):
        auto_device(wanted)


def test_a_device_of_another_kind_is_refused_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="--device tpu: expected cpu, cuda or auto"):
        auto_device("tpu")
