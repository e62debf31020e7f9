from pathlib import Path

import pytest

from stream.errors import ConfigError
from tests.trainer.evaluation.test_libsvm import write
from trainer.evaluation import libsvm
from trainer.evaluation.data_config import for_data
from trainer.evaluation.lists import Dataset
from trainer.models import MODELS

READS_RANKS = "dlcm"


@pytest.mark.parametrize("model", [name for name in MODELS if name != READS_RANKS])
def test_models_read_the_columns_of_the_data_and_keep_the_rest(model: str, tmp_path: Path) -> None:
    write(tmp_path / "log.txt", 10)
    data = libsvm.load(tmp_path / "log.txt")
    config = MODELS[model].profiles["tiny"]
    found = for_data(model, config, data)
    assert (found.num_columns, found.uses_rank, found.d) == (3, False, config.d)
    own = Dataset(name="own", note="", split=data.split)
    assert for_data(model, config, own) is config


def test_a_model_that_reads_ranks_is_refused_for_data_without_an_order(tmp_path: Path) -> None:
    write(tmp_path / "log.txt", 10)
    data = libsvm.load(tmp_path / "log.txt")
    with pytest.raises(ConfigError, match="uses_rank = False: dlcm reads the list in the order"):
        for_data(READS_RANKS, MODELS[READS_RANKS].profiles["tiny"], data)
