"""The configuration of a model for data of another form than sessions."""

from collections.abc import Mapping

from trainer.evaluation.lists import Dataset
from trainer.models import ModelConfig, decode_config, encode_config


def for_data(model: str, config: ModelConfig, data: Dataset) -> ModelConfig:
    """Return the configuration that reads the columns of the data, without what the data do not hold.

    Raises:
        ConfigError: If the model cannot read the data.
    """
    values: Mapping[str, object] = encode_config(config)
    if data.from_schema:
        return config
    absent: dict[str, object] = {"num_columns": data.num_columns, "uses_rank": data.has_order}
    if "perspectives" in values:
        absent["perspectives"] = False
    return decode_config(model, {**values, **absent})
