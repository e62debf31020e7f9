from pathlib import Path

import pytest

from tests.trainer.evaluation.test_libsvm import write
from trainer.evaluation import libsvm
from trainer.evaluation.data_config import for_data
from trainer.evaluation.lists import Dataset
from trainer.models import MODELS


@pytest.mark.parametrize("model", MODELS)
def test_models_read_the_columns_of_the_data_and_keep_the_rest(model: str, tmp_path: Path) -> None:
    write(tmp_path / "log.txt", 10)
    data = libsvm.load(tmp_path / "log.txt")
    config = MODELS[model].profiles["tiny"]
    found = for_data(model, config, data)
    assert (found.num_columns, found.uses_rank, found.d) == (3, False, config.d)
    own = Dataset(name="own", note="", split=data.split)
    assert for_data(model, config, own) is config
