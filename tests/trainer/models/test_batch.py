"""Batches as tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.models import TensorBatch, to_device, to_torch
from trainer.models.batch import pack, unpack

KNOWN = catalogue()


def test_a_packed_batch_has_the_tensors_of_the_plain_one() -> None:
    batch = batch_of([labelled(seed, KNOWN) for seed in range(5)])
    packed = pack(batch)
    assert packed.dtype == torch.uint8
    found = TensorBatch(*unpack(packed, batch))
    for name, plain in to_torch(batch)._asdict().items():
        ours = getattr(found, name)
        assert (ours.dtype, ours.shape) == (plain.dtype, plain.shape), name
        assert torch.equal(ours, plain), name
        assert ours.storage_offset() * ours.element_size() % 16 == 0
        assert ours.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()


def test_arrays_of_any_form_are_packed() -> None:
    arrays: list[NDArray[Any]] = [
        np.zeros((0, 3), np.float16),
        np.arange(12).reshape(3, 4).T,
        np.array([True, False, True]),
    ]
    for ours, array in zip(unpack(pack(arrays), arrays), arrays, strict=True):
        assert ours.numpy().dtype == array.dtype
        assert np.array_equal(ours.numpy(), array)


def test_tensors_on_the_cpu_share_memory_with_their_arrays() -> None:
    arrays: list[NDArray[Any]] = [np.arange(3), np.ones((2, 2), np.float16)]
    for tensor, array in zip(to_device(arrays), arrays, strict=True):
        assert tensor.data_ptr() == array.ctypes.data
