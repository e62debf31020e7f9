"""Pages of experiments, read from the database for people who look; ranking never waits for them.

Source: docs/serving.md, "Pages of experiments".
"""

import asyncio
import logging
from collections.abc import Callable

from serving.schemas import RetryLaterError
from stream.errors import ShelfwiseError, StoreError
from stream.schemas.names import is_name

_log = logging.getLogger(__name__)


class NoPageError(ShelfwiseError):
    """A key of which the database has no page."""


class PagesUnavailableError(RetryLaterError):
    """A page that cannot be read now."""


class ExperimentPages:
    """Pages of experiments, one read at a time: a database that stalls holds up one thread."""

    def __init__(self, list_page: Callable[[], str] | None, page: Callable[[str], str | None] | None) -> None:
        """Prepare the pages.

        Args:
            list_page: Returns the page that lists the experiments; None without a database.
            page: Returns the page of a key, None if there is none; None without a database.
        """
        self._list_page = list_page
        self._page = page
        self._reading = asyncio.Lock()

    async def listed(self) -> str:
        """Return the page that lists the experiments.

        Raises:
            PagesUnavailableError: If the database does not answer, or another page is being read.
        """
        return await self._read(self._list_page) or ""

    async def page(self, key: str) -> str:
        """Return the page of an experiment.

        Raises:
            NoPageError: If there is none.
            PagesUnavailableError: If the database does not answer, or another page is being read.
        """
        read = self._page
        found = None
        # Other texts name no experiment, and not every database takes them.
        if is_name(key):
            found = await self._read(None if read is None else lambda: read(key))
        if found is None:
            raise NoPageError(f"experiment '{key[:80]}' has no page; `shelfwise abtest watch` writes them")
        return found

    async def _read(self, read: Callable[[], str | None] | None) -> str | None:
        if read is None:
            raise PagesUnavailableError("the service has no database")
        if self._reading.locked():
            raise PagesUnavailableError("another page is being read")
        async with self._reading:
            try:
                return await asyncio.to_thread(read)
            except StoreError as error:
                # The message names the database, which is nothing for a caller.
                _log.warning("a page of an experiment cannot be read: %s", error)
                raise PagesUnavailableError("the database does not answer") from error
