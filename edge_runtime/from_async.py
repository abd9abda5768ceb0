"""An asynchronous source of pictures, read from a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class _End:
    """Behind the last item."""


class FromAsync(Iterator[_Item], Generic[_Item]):
    """Iterates, in another thread, over what an event loop produces.

    Args:
        items: The asynchronous source.
        loop: Where it runs.
    """

    def __init__(self, items: AsyncIterable[_Item], loop: asyncio.AbstractEventLoop) -> None:
        self._items = aiter(items)
        self._loop = loop
        self._lock = threading.Lock()
        self._closed = False
        self._pending: Future[_Item | _End] | None = None

    def __next__(self) -> _Item:
        with self._lock:
            if self._closed:
                raise StopIteration
            pending = asyncio.run_coroutine_threadsafe(self._step(), self._loop)
            self._pending = pending
        try:
            item = pending.result()
        except CancelledError:
            raise StopIteration from None
        if isinstance(item, _End):
            raise StopIteration
        return item

    def close(self) -> None:
        """Stop waiting for the next item, and take no more."""
        with self._lock:
            self._closed = True
            if self._pending is not None:
                self._pending.cancel()

    async def _step(self) -> _Item | _End:
        try:
            return await anext(self._items)
        except StopAsyncIteration:
            return _End()
