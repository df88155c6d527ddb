"""What can go wrong between us and a server, in five words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

LONGEST_WAIT = 300.0  # seconds that a Retry-After is believed


class Fault(Exception):
    """Something broke; the same request may well succeed when asked again."""


class Unavailable(Fault):
    """The endpoint answers nobody now (connection refused, 429, 503): no fault of this request."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after  # seconds, where the server said when to come again


class Unreachable(Unavailable):
    """Nobody is there at all."""


class Refused(Exception):
    """Asking again would end the same way."""


class Unfit(ValueError):
    """The server cannot be this teacher, whatever is asked: the run stops, with the way out."""


@asynccontextmanager
async def clear_faults(url: str, timeout: float) -> AsyncIterator[None]:
    """Turns what httpx raises into a Fault or Unavailable that says it in one sentence."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
        raise Unreachable(f"nothing answers at {url}") from error
    except httpx.TimeoutException as error:
        raise Fault(f"{url} was silent for {timeout:.0f} s (teacher.timeout)") from error
    except httpx.TransportError as error:
        raise Fault(f"the connection to {url} broke: {error or type(error).__name__}") from error


def retry_after(response: httpx.Response) -> float | None:
    """Seconds, from a Retry-After header; its date form is read as "unknown"."""
    value = response.headers.get("retry-after", "")
    return min(float(value), LONGEST_WAIT) if value.replace(".", "", 1).isdigit() else None
