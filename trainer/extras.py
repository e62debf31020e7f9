"""Optional packages: the command that installs them, for messages of functions that need one."""

from typing import Final

INSTALL: Final = "`make setup-extras`"
"""Command in the project's folder that installs the packages of all extras."""
