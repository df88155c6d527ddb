"""What a server may send: plain bytes, not more than the answer can hold, from the host that was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from ekd.teacher.wire.faults import Refused

HOPS = 5  # redirects followed
SLACK = 4 << 20  # bytes beside the tokens: a list of models, an echoed prompt
ENTRY = 256  # bytes of one alternative on the wire, three times what servers need
REDIRECTS = (301, 302, 303, 307, 308)


def largest_answer(tokens: int, top: int) -> int:
    """Bytes that an answer of so many tokens, with `top` alternatives each, needs at the most."""
    return SLACK + ENTRY * (top + 2) * tokens


class Bounded(httpx.AsyncHTTPTransport):
    """Asks for no compression, which could hide any size, and stops reading where an answer is too long to be one."""

    def __init__(self, connections: int, most: int) -> None:
        super().__init__(limits=httpx.Limits(max_connections=2 * connections, max_keepalive_connections=connections))
        self.most = most

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "identity"
        for _ in range(HOPS):
            response = await super().handle_async_request(request)
            if response.status_code not in REDIRECTS:
                return await self._bounded(request, response)
            await response.aclose()
            request = _redirected(request, response)
        raise Refused(f"{_origin(request.url)} redirects without end")

    def most_of(self, request: httpx.Request) -> int:
        return self.most

    async def _bounded(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise Refused(f"{_origin(request.url)} sent a compressed answer, which was not asked for")
        stream = response.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport gives asynchronous streams")
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Counted(stream, self.most_of(request), _origin(request.url)),
            extensions=response.extensions,
        )


class _Counted(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, most: int, origin: str) -> None:
        self.stream, self.most, self.origin = stream, most, origin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self.stream:
            seen += len(part)
            if seen > self.most:
                raise Refused(
                    f"{self.origin} sent more than {self.most / 2**20:.0f} MiB, which no answer to this request needs"
                )
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()


def _redirected(request: httpx.Request, response: httpx.Response) -> httpx.Request:
    """The same request elsewhere on the same host. Raises Refused for another host, or where a POST would be a GET."""
    try:
        target = request.url.join(response.headers.get("location", ""))
    except httpx.InvalidURL:
        target = httpx.URL("")
    same = target.host == request.url.host and target.scheme in ("https", request.url.scheme) and not target.userinfo
    if not same or (request.method != "GET" and response.status_code not in (307, 308)):
        raise Refused(
            f"{_origin(request.url)} sends its requests on to {_origin(target)} (HTTP {response.status_code}): give "
            "the address that answers as teacher.endpoints"
        )
    headers = request.headers.copy()
    headers["Host"] = target.netloc.decode("ascii")
    if _origin(target) != _origin(request.url) and target.scheme == request.url.scheme:
        headers.pop("Authorization", None)  # another port is another server
    return httpx.Request(
        request.method, target, headers=headers, content=request.content, extensions=request.extensions
    )


def _origin(url: httpx.URL) -> str:
    """Without path, query or credentials."""
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "") if url.host else "an unknown address"
