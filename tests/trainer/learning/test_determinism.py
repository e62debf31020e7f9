"""The conditions of bit-equal weights are set, and recorded as they are."""

from collections.abc import Iterator

import pytest
import torch

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
