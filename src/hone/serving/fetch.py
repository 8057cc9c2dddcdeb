"""Fetch: a file that a request names by its URL, from the open Internet alone.

Every way to another place is closed at the one point where a connection is made: the addresses of a name are looked up once,
all must be public, and the connection goes to one of them by its number, so that no second answer of a name server counts.
Redirects are followed here, one by one, through the same point. Does not know what the file is for.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import hone
from hone.errors import MissingExtra
from hone.serving.addresses import addresses_of, is_public
from hone.serving.refusal import Refusal

try:
    import httpcore2
except ModuleNotFoundError as fault:
    raise MissingExtra(fault.name or "httpcore2", "serve", "hone api") from fault

PORTS = {"https": 443, "http": 80}
MAX_REDIRECTS = 3
_LONGEST_URL = 4096
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
_IN_TARGET = "%/:=&?~+!$,;'@()*[]|"
_MOVED = (301, 302, 303, 307, 308)
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"hone/{hone.__version__}"}


class PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Connections to public addresses and to nothing else; the name is resolved here and nowhere else.

    resolve: addresses of a name. dial: makes the connection to an address by its number.
    """

    def __init__(
        self,
        resolve: Callable[[str, int], Awaitable[list[str]]] = addresses_of,
        dial: httpcore2.AsyncNetworkBackend | None = None,
    ):
        self._resolve, self._dial = resolve, dial or httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first address that answers. Raises: Refusal where one of them is not public, or there is none."""
        found = await self._resolve(host, port)
        if not found or not all(map(is_public, found)):  # one sentence for both: it tells nothing of names within
            raise Refusal(400, f"{host[:200]} is not known on the open Internet", code="media_address")
        failed: Exception | None = None
        for address in found:
            try:
                return await self._dial.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as fault:
                failed = fault
        assert failed is not None, "there is an address"
        raise failed

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Never."""
        raise AssertionError("a URL is no socket's path")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Place:
    """What a URL says, read once: the library is given the parts and reads no URL of its own."""

    scheme: str
    host: str
    target: str

    def for_request(self) -> httpcore2.URL:
        """The same, as the library takes it."""
        return httpcore2.URL(scheme=self.scheme, host=self.host, port=PORTS[self.scheme], target=self.target)


def read_url(url: str, schemes: tuple[str, ...]) -> Place:
    """The parts of a URL of one of these schemes, with a name or address, its own port and no password. Raises: Refusal."""

    def refuse(why: str) -> Refusal:
        return Refusal(400, why, code="media_address")

    if len(url) > _LONGEST_URL or any(letter <= " " or letter in "\\\x7f" for letter in url):
        raise refuse(f"its URL holds spaces or control characters, or more than {_LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as fault:
        raise refuse("its URL cannot be read") from fault
    scheme = parts.scheme.lower()
    if scheme not in schemes:
        told = "only " + " and ".join(f"{one}:" for one in schemes) if schemes else "none are"
        raise refuse(f"{scheme[:20]}: URLs are not fetched here, {told} (api_media_urls)")
    if "@" in parts.netloc:
        raise refuse("its URL holds a user's name or password")
    if port not in (None, PORTS[scheme]):
        raise refuse(f"its URL names port {port}; {scheme}: is fetched from {PORTS[scheme]} alone")
    host = (parts.hostname or "").rstrip(".")
    if not _HOST.fullmatch(host):
        raise refuse("its URL names no host in plain letters (an international name is written xn--...)")
    target = quote(parts.path or "/", safe=_IN_TARGET) + (f"?{quote(parts.query, safe=_IN_TARGET)}" if parts.query else "")
    return Place(scheme, host, target)


@dataclass(frozen=True)
class _Moved:
    """The file is elsewhere."""

    to: str


@dataclass(frozen=True)
class Fetcher:
    """`await Fetcher(("https",)).fetch(url, most=1_000_000, seconds=15)`. schemes: of the URLs that are fetched."""

    schemes: tuple[str, ...] = ("https",)
    network: PublicNetwork = field(default_factory=PublicNetwork)
    trust: ssl.SSLContext | None = None

    async def fetch(self, url: str, *, most: int, seconds: float) -> bytes:
        """What is there: `most` bytes at most, all redirects within `seconds`. Raises: Refusal."""
        try:
            async with asyncio.timeout(seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self._ask(url, most)
                    if isinstance(answer, bytes):
                        return answer
                    url = _joined(url, answer.to)
        except TimeoutError:
            raise Refusal(400, "it could not be fetched in time (api_media_timeout)", code="media_unreachable") from None
        raise Refusal(400, f"it is redirected more than {MAX_REDIRECTS} times", code="media_unreachable")

    async def _ask(self, url: str, most: int) -> bytes | _Moved:
        place = read_url(url, self.schemes)
        headers = {"Host": f"[{place.host}]" if ":" in place.host else place.host, **_HEADERS}
        try:
            async with (
                httpcore2.AsyncConnectionPool(ssl_context=self.trust, network_backend=self.network) as pool,
                pool.stream("GET", place.for_request(), headers=list(headers.items())) as reply,
            ):
                said = {name.lower(): value.decode("latin-1") for name, value in reply.headers}
                if reply.status in _MOVED and b"location" in said:
                    return _Moved(said[b"location"])
                return await _body(reply, said, most)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as fault:
            raise Refusal(400, f"{place.host} cannot be reached", code="media_unreachable") from fault


def _joined(url: str, to: str) -> str:
    try:
        return urljoin(url, to)
    except ValueError as fault:
        raise Refusal(400, "it is redirected to a URL that cannot be read", code="media_address") from fault


async def _body(reply: httpcore2.Response, said: dict[bytes, str], most: int) -> bytes:
    if reply.status != 200:
        raise Refusal(400, f"its server answers with status {reply.status}", code="media_unreachable")
    if said.get(b"content-encoding", "identity").lower() != "identity":
        raise Refusal(400, "its server sends it compressed, unasked", code="media_unreachable")
    told, read = said.get(b"content-length", ""), bytearray()
    if told.isdigit() and int(told[:20]) > most:
        raise too_large(most)
    async for piece in reply.aiter_stream():
        read += piece
        if len(read) > most:
            raise too_large(most)
    return bytes(read)


def too_large(most: int) -> Refusal:
    """The refusal of a file of more bytes than a request may still bring."""
    return Refusal(
        400, f"it is larger than the {most} bytes that are left to this request (api_max_media_size)", code="media_too_large"
    )
