"""What is fetched, from where, and how much of it: over real connections. This machine stands in for the Internet."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpcore2
import pytest

from hone.serving.addresses import is_public
from hone.serving.fetch import Fetcher, PublicNetwork, read_url
from hone.serving.refusal import Refusal

PUBLIC, OTHER_PUBLIC = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NAME = "pictures.example"

SHUT = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.254 127.0.0.1 127.255.255.254 169.254.0.1 169.254.169.254 172.16.0.1
172.31.255.254 192.0.0.8 192.0.0.9 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
239.1.2.3 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808
64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1
fe80::1%eth0 fec0::1 ff02::1 localhost 127.1 2130706433 0x7f.1
""".split()


@pytest.mark.parametrize("address", SHUT)
def test_addresses_that_are_not_everybodys(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", PUBLIC, OTHER_PUBLIC, "2001:4860:4860::8888", "172.32.0.1", "100.128.0.1"]
)
def test_addresses_of_the_open_internet(address):
    assert is_public(address)


class Wires(httpcore2.AsyncNetworkBackend):
    """Leads every public address to one port of this machine, and notes which was asked for."""

    def __init__(self, port):
        self.port, self.dialled = port, []

    async def connect_tcp(self, host, port, *rest, **options):
        self.dialled.append((host, port))
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", self.port)


@contextmanager
def answering(answer, context=None):
    """A server of this machine; answer(handler) writes what it says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append((self.path, dict(self.headers)))
            answer(self)

        def log_message(self, *_):
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def says(body=b"hello", status=200, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def fetch(server, url=f"http://{NAME}/a.png", *, names=None, most=1000, seconds=5.0, schemes=("https", "http"), trust=None):
    """The bytes and the numbers that were dialled. names: what each name leads to, answer by answer."""
    leads = {name: iter(found) for name, found in (names or {NAME: [[PUBLIC]] * 9}).items()}

    async def resolve(host, port):
        return next(leads.get(host, iter([[host]])))

    wires = Wires(server.server_port)
    fetcher = Fetcher(schemes, PublicNetwork(resolve, wires), trust)
    return asyncio.run(fetcher.fetch(url, most=most, seconds=seconds)), wires.dialled


def refused(*arguments, **options):
    """The sentence and code of the refusal."""
    with pytest.raises(Refusal) as no:
        fetch(*arguments, **options)
    assert no.value.status == 400
    return f"{no.value} [{no.value.code}]"


def test_a_file_is_fetched_from_the_number_that_was_checked():
    with answering(says()) as server:
        data, dialled = fetch(server, f"http://{NAME}/a%20b/\u00e4?x=1#part")
        path, headers = server.asked[0]
    assert (data, dialled) == (b"hello", [(PUBLIC, 80)])
    assert (path, headers["Host"]) == ("/a%20b/%C3%A4?x=1", NAME) and "Cookie" not in headers and "Authorization" not in headers


def test_a_name_with_one_address_within_is_not_asked_at_all():
    with answering(says()) as server:
        for found in ([PUBLIC, "10.0.0.1"], ["127.0.0.1"], []):
            assert f"{NAME} is not known" in refused(server, names={NAME: [found]})
        assert not server.asked


def test_a_name_that_is_turned_after_the_check_is_looked_up_once():
    """DNS rebinding: public first, this machine second. There is no second look within a fetch, and the next fetch is refused."""
    answers = {NAME: [[PUBLIC], ["127.0.0.1"]]}
    with answering(says()) as server:
        assert fetch(server, names=answers) == (b"hello", [(PUBLIC, 80)])
        assert len(server.asked) == 1
        assert "is not known" in refused(server, names={NAME: answers[NAME][1:]})
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("http://127.0.0.1/", "media_address"),
        ("http://localhost/", "media_address"),
        ("http://[::ffff:127.0.0.1]/", "media_address"),
        ("http://169.254.169.254/latest/meta-data/", "media_address"),
        (f"http://{NAME}:8080/", "names port 8080"),
        (f"http://u:p@{NAME}/", "user's name"),
        ("file:///etc/passwd", "file: URLs are not fetched"),
        ("gopher://a/", "gopher: URLs are not fetched"),
        ("http://[", "cannot be read"),
        ("/again", "redirected more than 3 times"),
    ],
)
def test_a_redirect_passes_the_same_door(to, said):
    with answering(says(status=302, Location=to)) as server:
        assert said in refused(server)
        assert len(server.asked) == (4 if to == "/again" else 1)


def test_a_redirect_to_a_name_that_is_turned_meanwhile():
    """The name of the first hop is asked again for the second, and leads within then."""
    with answering(says(status=307, Location=f"http://{NAME}/secret")) as server:
        assert "is not known" in refused(server, names={NAME: [[PUBLIC], ["127.0.0.1"]]})
        assert [path for path, _ in server.asked] == ["/a.png"]


def test_a_redirect_to_a_public_place_is_followed():
    def answer(handler):
        says(b"there")(handler) if handler.path == "/b" else says(status=301, Location="http://other.example/b")(handler)

    with answering(answer) as server:
        names = {NAME: [[PUBLIC]], "other.example": [[OTHER_PUBLIC]]}
        assert fetch(server, names=names) == (b"there", [(PUBLIC, 80), (OTHER_PUBLIC, 80)])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://a.example/", "http: URLs are not fetched here, only https:"),
        ("ftp://a.example/", "ftp: URLs"),
        ("https://a.example:22/", "port 22"),
        ("https://a.example:99999/", "cannot be read"),
        ("https://user@a.example/", "user's name or password"),
        ("https://127.0.0.1\\@a.example/", "control characters"),
        ("https://a.example/\r\nHost: b", "control characters"),
        ("https:///a", "names no host"),
        ("https://a..example%2f/", "names no host"),
        ("https://\u2460\u2461.example/", "names no host"),
        ("https://fe80::1%25eth0/", "cannot be read"),
        ("https://a.example/" + "x" * 5000, "4096 characters"),
    ],
)
def test_urls_that_are_refused_as_they_stand(url, said):
    with pytest.raises(Refusal, match=said):
        read_url(url, ("https",))
    with pytest.raises(Refusal, match="none are"):
        read_url("https://a.example/", ())


def test_a_body_is_counted_while_it_comes():
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100_000):
                handler.wfile.write(b"x" * 1000)
                handler.server.written += 1000
        except OSError:
            handler.server.left.set()

    with answering(endless) as server:
        server.written, server.left = 0, threading.Event()
        assert "media_too_large" in refused(server, most=100_000)
        assert server.left.wait(5) and server.written < 50_000_000
    with answering(says(Content_Length="1001")) as server:
        assert "media_too_large" in refused(server, most=1000)
    with answering(says(b"x" * 1000)) as server:
        assert fetch(server, most=1000)[0] == b"x" * 1000


def test_a_server_that_trickles_is_left_in_time():
    """Headers or body, a byte at a time: each is in time by itself, and the whole is not."""

    def trickle(handler):
        with suppress(OSError):
            for _ in range(200):
                handler.wfile.write(b"H")
                time.sleep(0.02)

    with answering(trickle) as server:
        begun = time.monotonic()
        assert "in time" in refused(server, seconds=0.3)
        assert time.monotonic() - begun < 3, "without the limit it would take 4 seconds"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (says(b"secret", status=404), "status 404"),
        (says(b"secret", status=206), "status 206"),
        (says(b"secret", status=302), "status 302"),
        (says(b"secret", Content_Encoding="gzip"), "compressed"),
    ],
)
def test_what_is_no_answer_is_told_without_a_word_of_it(answer, said):
    with answering(answer) as server:
        told = refused(server)
        assert said in told and "secret" not in told


def test_what_is_no_http_cannot_be_reached():
    with answering(lambda handler: handler.wfile.write(b"+OK redis\r\n")) as server:
        assert "cannot be reached" in refused(server)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of NAME that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem"
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    try:
        subprocess.run(["openssl", *words.split(), *subject], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl on this machine")
    return folder


def test_the_certificate_is_held_against_the_name_and_not_the_number(certificate):
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with answering(says(), serving) as server:
        assert fetch(server, f"https://{NAME}/", trust=trust) == (b"hello", [(PUBLIC, 443)])
        names = {"other.example": [[PUBLIC]]}
        assert "cannot be reached" in refused(server, "https://other.example/", names=names, trust=trust)
        assert "cannot be reached" in refused(server, f"https://{NAME}/"), "nobody this machine trusts has signed it"
