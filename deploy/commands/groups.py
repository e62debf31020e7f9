"""Groups of commands whose modules are imported when one of their commands is named, or their own help is asked for."""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group


class GroupOnDemand(TyperGroup):
    """A group of which only name and help are known until it is entered.

    Source: Click documentation, "Complex Applications", section "Lazily Loading Subcommands".
    """

    def __init__(self, name: str, summary: str, module: str) -> None:
        super().__init__(name=name, help=summary, rich_markup_mode=None)
        self._name, self._summary, self._module = name, summary, module

    @cached_property
    def entered(self) -> TyperGroup:
        """The group as `app` of its module declares it."""
        parent = typer.Typer(rich_markup_mode=None)
        parent.add_typer(import_module(self._module).app, name=self._name, help=self._summary)
        group = get_group(parent).commands[self._name]
        assert isinstance(group, TyperGroup), "a Typer that is added to another one becomes a group"
        return group

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Parse the arguments that follow the name; the context belongs to the group that was entered."""
        return self.entered.make_context(*args, **extra)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the group."""
        return self.entered.list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command of the group, None if it has no such command."""
        return self.entered.get_command(ctx, cmd_name)


def with_groups(package: str, summaries: Mapping[str, str]) -> type[TyperGroup]:
    """Return the class of a group that has further groups after its own commands.

    Args:
        package: Package with a module per group: `dead_letters` for the group `dead-letters`. Its `app` is a Typer.
        summaries: Name of each group to its help.
    """

    class WithGroups(TyperGroup):
        """A group of which some commands are groups on demand."""

        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            for name, summary in summaries.items():
                self.add_command(GroupOnDemand(name, summary, f"{package}.{name.replace('-', '_')}"))

    return WithGroups
