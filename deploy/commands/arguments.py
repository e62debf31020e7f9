"""Arguments and options of more than one group of commands."""

from typing import Annotated

import typer

from stream.schemas.names import check_user

ExperimentArgument = Annotated[str, typer.Argument(help="Name of the experiment.")]
LayerOption = Annotated[str, typer.Option("--layer", help="Layer of the experiment.")]
UserOption = Annotated[str | None, typer.Option("--as", help="Who gives the command; the login name by default.")]


def named_user(user: str | None) -> str:
    """Return who gives a command: the name given by `--as`, else the login name, else the number of the user.

    In a container the number often has no name.

    Raises:
        ConfigError: If the given name is none of a user.
    """
    import getpass
    import os

    if user is not None:
        check_user(user)
        return user
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
