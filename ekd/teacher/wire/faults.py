"""What can go wrong between us and a server, in six words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx

LONGEST_REASON = 600  # characters
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


class Foreign(Refused):
    """The server reads the prompt as another number of tokens than we do."""


class Unfit(ValueError):
    """The server cannot be this teacher, whatever is asked: the run stops, with the way out."""


@asynccontextmanager
async def clear_faults(url: str, timeout: float) -> AsyncIterator[None]:
    """Turns what httpx and the reading of JSON raise into a Fault or Unavailable that says it in one sentence."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
        raise Unreachable(f"nothing answers at {url}") from error
    except httpx.TimeoutException as error:
        raise Fault(f"{url} was silent for {timeout:.0f} s (teacher.timeout)") from error
    except asyncio.TimeoutError as error:
        raise Fault(f"{url} did not end its answer within {timeout:.0f} s (teacher.timeout)") from error
    except RecursionError as error:
        raise Refused(f"{url} sent JSON that is nested too deeply to be an answer") from error
    except httpx.InvalidURL as error:
        raise Refused(f"{url} is no address that can be asked") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Fault(f"the connection to {url} broke: {error or type(error).__name__}") from error


@contextmanager
def hushed(url: str, secret: str | None) -> Iterator[None]:
    """What a server says goes into messages and files: with its URL, and without the key, should it echo that."""
    try:
        yield
    except (Fault, Refused, Unfit) as error:
        error.args = (clean_line(str(error) if url in str(error) else f"{url}: {error}", secret),)
        error.__cause__, error.__suppress_context__ = None, True  # the causes would show it
        raise


def clean_line(text: str, secret: str | None) -> str:
    """One printable line of a bearable length, without the secret."""
    plain = text.replace(secret, "***") if secret else text
    line = " ".join(plain.encode("utf-8", "replace").decode().split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ..."


def retry_after(response: httpx.Response) -> float | None:
    """Seconds, from a Retry-After header; its date form is read as "unknown"."""
    value = response.headers.get("retry-after", "")
    return min(float(value), LONGEST_WAIT) if value.replace(".", "", 1).isdigit() else None
