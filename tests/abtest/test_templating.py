import pytest
from jinja2 import UndefinedError

from abtest import templating


def test_an_unknown_name_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        templating.environment().get_template("experiments.html.jinja").render()
