"""The line to a Milvus server: it may fail, and is then left alone for a while."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from bmojo.storage.collection import Collection, connect, shapes_in
from bmojo.storage.errors import StoreAway
from bmojo.storage.protocol import Stream

__all__ = ["Line"]

Answer = TypeVar("Answer")


class Line:
    """Connection to Milvus, made when it is first needed.

    After a failure nothing is asked for `retry` seconds, twice as many after each further one.

    Parameters
    ----------
    uri : str
    token : str
    prefix : str
        Beginning of the names of the collections.
    retry, longest_retry : float
        Seconds.
    client : MilvusClient, optional
    timeout : float
        Seconds for each call.
    **options
        Of each `Collection`.

    Examples
    --------
    >>> from bmojo.storage.line import Line
    >>> line = Line("http://nowhere:1", retry=60.0)
    >>> def fails():
    ...     raise ConnectionError("no route")
    >>> for ask in (fails, lambda: "an answer"):
    ...     try:
    ...         line.call(ask)
    ...     except Exception as error:
    ...         print(error)
    http://nowhere:1 is away: no route
    http://nowhere:1 is away: no route
    """

    def __init__(
        self,
        uri: str,
        *,
        token: str = "",
        prefix: str = "bmojo",
        retry: float = 0.5,
        longest_retry: float = 30.0,
        client: Any = None,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        self.uri, self.token, self.prefix = uri, token, prefix
        self.retry, self.longest_retry, self.timeout, self.options = retry, longest_retry, timeout, options
        self.retry_at, self.reason = 0.0, ""
        self._client, self._failures = client, 0
        self._collections: dict[tuple[int, int, int], Collection] = {}
        self._lock = threading.RLock()

    def call(self, ask: Callable[[], Answer]) -> Answer:
        """Ask, and give the answer.

        Parameters
        ----------
        ask : callable

        Raises
        ------
        StoreAway
            If it failed, or failed shortly before and was not asked.
        """
        if monotonic() < self.retry_at:
            raise StoreAway(f"{self.uri} is away: {self.reason}")
        try:
            answer = ask()
        except _failures() as error:
            with self._lock:
                self._failures += 1
                self._collections.clear()  # who comes back may have forgotten them
                pause = min(self.retry * 2.0 ** min(self._failures - 1, 30), self.longest_retry)
                self.retry_at = monotonic() + pause
                self.reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise StoreAway(f"{self.uri} is away: {self.reason}") from None
        with self._lock:
            self._failures, self.retry_at, self.reason = 0, 0.0, ""
        return answer

    def collection(self, shape: tuple[int, int, int]) -> Collection:
        """The collection for rows of a shape: heads, key width, value width."""
        with self._lock:
            client = self._connected()
            if shape not in self._collections:
                self._collections[shape] = Collection(
                    client, self.prefix, shape, timeout=self.timeout, **self.options
                )
            return self._collections[shape]

    def discover(self, stream: Stream) -> tuple[tuple[int, int, int] | None, int]:
        """Shape and number of a stream's rows; `None` and 0 where Milvus has none."""
        with self._lock:
            client = self._connected()
        for shape in shapes_in(client, self.prefix, self.timeout):
            count = self.collection(shape).count(stream)
            if count:
                return shape, count
        return None, 0

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Any:
        if self._client is None:
            self._client = connect(self.uri, self.token, self.timeout)
        return self._client


def _failures() -> tuple[type[Exception], ...]:
    """What clients raise when a server cannot be reached or does not answer."""
    found: list[type[Exception]] = [OSError]
    for module, name in (("pymilvus", "MilvusException"), ("grpc", "RpcError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)
