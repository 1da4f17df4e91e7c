"""`release serve`: what HTTP clients may ask for, and what none of them gets."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloud_inspect.errors import StoreGone
from cloud_inspect.release.serve import ReleaseServer, Unsatisfiable, find_file, parse_range

CONTENT = bytes(range(256)) * 40
FILE = "/targets/p/m/1.0.0/" + "a" * 64 + ".model.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    file = root / FILE[1:]
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    (root / "metadata").mkdir()
    (root / "metadata/timestamp.json").write_text("{}")
    (root / "staged").mkdir()
    (root / "staged/secret.json").write_text("{}")
    (root / ".lock").write_text("")
    (root / "metadata/.hidden").write_text("")
    (tmp_path / "outside.json").write_text("outside")
    (root / "metadata/link.json").symlink_to(tmp_path / "outside.json")
    (root / "metadata/circle.json").symlink_to(root / "metadata/circle.json")
    return root


@pytest.fixture
def server(folder: Path) -> Iterator[ReleaseServer]:
    with ReleaseServer(folder, port=0, most_connections=4, idle_s=20) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(30)


def ask(
    server: ReleaseServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port or 0, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_whole_file_is_served_and_may_be_kept(server: ReleaseServer) -> None:
    status, body, headers = ask(server, FILE)
    assert (status, body) == (200, CONTENT)
    assert headers["Accept-Ranges"] == "bytes" and "immutable" in headers["Cache-Control"]
    assert ask(server, "/metadata/timestamp.json")[2]["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=10000-", 10000, 10239),
        ("bytes=10239-", 10239, 10239),
        ("bytes=-1", 10239, 10239),
        ("bytes=-99999", 0, 10239),
        ("bytes=0-99999999999", 0, 10239),
    ],
)
def test_range_is_answered_with_206(server: ReleaseServer, asked: str, first: int, last: int) -> None:
    status, body, headers = ask(server, FILE, Range=asked)
    assert (status, body) == (206, CONTENT[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/10240"
    assert headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=10240-10250", "bytes=999999999999-", "bytes=-0"])
def test_range_beyond_the_end_is_416_and_says_the_size(server: ReleaseServer, asked: str) -> None:
    status, body, headers = ask(server, FILE, Range=asked)
    assert (status, body, headers["Content-Range"]) == (416, b"", "bytes */10240")


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-6", "bytes=5-1", "bytes=-", "bytes=", "bytes=a-b", "items=0-1", "bytes=0-1-2", "bytes=--1", "x" * 999,
     "bytes=" + ",".join("0-1" for _ in range(2000)), "bytes=٣-٤"],
)  # fmt: skip
def test_range_that_is_none_or_several_gets_the_whole_file(server: ReleaseServer, asked: str) -> None:
    status, body, _ = ask(server, FILE, Range=asked.encode().decode("latin-1"))
    assert (status, body) == (200, CONTENT)


def test_if_range_gives_the_part_only_of_the_same_file(server: ReleaseServer, folder: Path) -> None:
    _, _, headers = ask(server, FILE)
    etag, modified = headers["ETag"], headers["Last-Modified"]
    for same in (etag, modified):
        assert ask(server, FILE, Range="bytes=5-9", If_Range=same)[:2] == (206, CONTENT[5:10])
    for other in ('"other"', f"W/{etag}", "Thu, 01 Jan 1970 00:00:00 GMT", "nonsense"):
        assert ask(server, FILE, Range="bytes=5-9", If_Range=other)[:2] == (200, CONTENT)
    changed = folder / FILE[1:]
    os.utime(changed, ns=(1, 1))
    assert ask(server, FILE, Range="bytes=5-9", If_Range=etag)[:2] == (200, CONTENT)


def test_client_that_has_it_is_told_304(server: ReleaseServer) -> None:
    etag = ask(server, FILE)[2]["ETag"]
    assert ask(server, FILE, If_None_Match=etag)[:2] == (304, b"")
    assert ask(server, FILE, If_None_Match=f'"x", W/{etag}')[:2] == (304, b"")
    assert ask(server, FILE, If_None_Match='"x"')[0] == 200


def test_head_is_get_without_a_body(server: ReleaseServer) -> None:
    status, body, headers = ask(server, FILE, "HEAD", Range="bytes=0-9")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CONTENT)))
    assert ask(server, "/metadata/none.json", "HEAD")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_nothing_but_get_and_head(server: ReleaseServer, method: str) -> None:
    status, body, headers = ask(server, FILE, method)
    assert (status, body, headers["Allow"]) == (405, b"", "GET, HEAD")


@pytest.mark.parametrize(
    "header", [{"Content_Length": "5"}, {"Content_Length": "-1"}, {"Transfer_Encoding": "chunked"}]
)
def test_request_with_a_body_is_refused_and_cannot_smuggle_another(
    server: ReleaseServer, header: dict[str, str]
) -> None:
    assert ask(server, FILE, **header)[0] == 400


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "/metadata", "/metadata/", "/targets/p/", "/staged/secret.json", "/.lock", "/metadata/.hidden",
        "/metadata/link.json", "/metadata/circle.json", "/metadata/../staged/secret.json",
        "/metadata/..%2fstaged/secret.json", "/metadata/%2e%2e/staged/secret.json", "/metadata/..\\staged\\secret.json",
        "/metadata//timestamp.json", "/metadata/./timestamp.json", "/metadata/timestamp.json/", "/etc/passwd",
        "/../../../../etc/passwd", "/metadata/%00timestamp.json", "/metadata/timestamp.json%00", "/metadata/%ff",
        "/metadata/" + "a" * 5000, "/metadata/t%C3%AFmestamp.json", "/METADATA/timestamp.json",
        "/metadata/timestamp%252ejson", "/metadata/timestamp.json;x",
        "/" + "/".join(["metadata"] * 500),
    ],
)  # fmt: skip
def test_nothing_else_is_reachable(server: ReleaseServer, path: str) -> None:
    assert ask(server, path)[:2] == (404, b"")


@pytest.mark.parametrize(
    "raw", [b"GET\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n", b"GET " + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_is_refused_and_the_server_goes_on(server: ReleaseServer, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(raw)
        answer = connection.recv(4096)
    assert b" 4" in answer.splitlines()[0] if answer else True
    assert ask(server, FILE)[0] == 200


def test_one_connection_too_many_is_told_503_and_the_others_are_served(server: ReleaseServer) -> None:
    open_ones = [socket.create_connection(("127.0.0.1", server.server_port), timeout=30) for _ in range(4)]
    try:
        for one in open_ones:  # each has its place once it was answered
            one.sendall(b"HEAD /metadata/timestamp.json HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as late:
            assert late.recv(4096).startswith(b"HTTP/1.1 503")
        open_ones[0].sendall(b"HEAD /metadata/timestamp.json HTTP/1.1\r\nHost: x\r\n\r\n")
        assert open_ones[0].recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        for one in open_ones:
            one.close()


def test_client_that_says_nothing_is_let_go(folder: Path) -> None:
    with ReleaseServer(folder, port=0, most_connections=1, idle_s=0.2) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as silent:
                assert silent.recv(1) == b""
        finally:
            server.shutdown()
            thread.join(30)


def test_client_that_sends_its_request_byte_by_byte_is_let_go(folder: Path) -> None:
    with ReleaseServer(folder, port=0, most_connections=1, idle_s=0.5) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        stop = threading.Event()
        try:
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as dripping:
                dripping.sendall(b"GET /metadata/timestamp.json HTTP/1.1\r\n")
                for _ in range(600):
                    try:
                        dripping.sendall(b"X")
                    except OSError:
                        break  # let go
                    stop.wait(0.05)
                else:
                    pytest.fail("it held its place")
        finally:
            server.shutdown()
            thread.join(30)


def test_taken_address_is_one_line(server: ReleaseServer, folder: Path) -> None:
    with pytest.raises(StoreGone, match=r"127\.0\.0\.1") as raised:
        ReleaseServer(folder, port=server.server_port)
    assert raised.value.code == "address"


def test_ranges_of_an_empty_file() -> None:
    assert parse_range("bytes=0-0", 1) == (0, 0)
    for asked in ("bytes=0-", "bytes=-1"):
        with pytest.raises(Unsatisfiable):
            parse_range(asked, 0)


def test_path_that_no_client_library_sends_means_no_file(folder: Path) -> None:
    for path in (
        "http://[bad/metadata/timestamp.json",
        "//[/metadata/timestamp.json",
        "",
        "*",
        "metadata/timestamp.json",
    ):
        assert find_file(folder, path) is None


def test_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "metadata/same.json").symlink_to(folder / "metadata/timestamp.json")
    assert find_file(folder, "/metadata/same.json?query=1") == folder / "metadata/timestamp.json"
