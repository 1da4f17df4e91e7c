"""A file comes whole and right or not at all; what has come once is not fetched again, whatever the line does."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from edge_inspect.errors import BadConfig, NoSpace, SourceGone, StorageFailing, Untrusted
from edge_inspect.update import download as download_module
from edge_inspect.update.download import ETAG_SUFFIX, Download, Throttle
from edge_inspect.update.transport import FetchLimits, Source
from edge_inspect.update.trust import check_bytes
from tests.certificates import Authority
from tests.edge.update.boxes import source
from tests.sim.tuf_repository import Fault, TufRepository, TufServer

CONTENT = random.Random(4).randbytes(200_000)
NAME = "targets/model.onnx"


@pytest.fixture(scope="module")
def repository() -> TufRepository:
    return TufRepository()


@pytest.fixture
def server(repository: TufRepository) -> Iterator[TufServer]:
    repository.files[NAME] = CONTENT
    with TufServer(repository) as server:
        yield server


class Box:
    """One file on its way to a device."""

    def __init__(self, server: TufServer, folder: Path, content: bytes = CONTENT) -> None:
        self.server = server
        self.part = folder / "it.part"
        self.info = TargetFile.from_data("model.onnx", content, ["sha256"])

    def fetch(self, source: Source | None = None, *, most_s: float = 40.0) -> Download:
        source = source or quick()
        download = Download(
            source, f"{self.server.url}/{NAME}", self.part, self.info.length, partial(check_bytes, self.info)
        )
        throttle = Throttle(source.limits.rate_bytes_per_s, source.stop)
        download.run(until_s=time.monotonic() + most_s, throttle=throttle)
        return download

    def begin(self, count: int, *, etag: bool = True) -> None:
        """What an earlier run left."""
        self.part.write_bytes(CONTENT[:count])
        if etag:
            name = self.part.name + ETAG_SUFFIX
            self.part.with_name(name).write_text(f'"{hashlib.sha256(CONTENT).hexdigest()[:16]}"')

    @property
    def sent(self) -> int:
        return self.server.sent_of(NAME)


def quick(**changes: object) -> Source:
    return source(stall_s=0.5, **changes)


@pytest.fixture
def box(server: TufServer, tmp_path: Path) -> Box:
    return Box(server, tmp_path)


def test_whole_file_comes_in_one_go(box: Box) -> None:
    box.fetch()
    assert box.part.read_bytes() == CONTENT
    assert [path.name for path in box.part.parent.iterdir()] == ["it.part"]
    assert len(box.server.requests) == 1


@pytest.mark.parametrize("etag", [True, False], ids=["if-range", "range"])
def test_rest_is_asked_for_and_nothing_twice(etag: bool, box: Box) -> None:
    box.begin(150_000, etag=etag)
    box.fetch()
    assert box.part.read_bytes() == CONTENT
    assert box.server.requests[0].range == "bytes=150000-"
    assert bool(box.server.requests[0].if_range) == etag
    assert box.sent == 50_000


def test_file_that_is_there_already_is_not_asked_for(box: Box) -> None:
    box.begin(len(CONTENT))
    box.fetch()
    assert box.server.requests == []


@pytest.mark.parametrize("how", ["cut", "half-open"])
def test_line_that_breaks_over_and_over_goes_on_where_it_was(how: str, box: Box) -> None:
    fault = Fault(cut_after=60_000) if how == "cut" else Fault(stall_after=60_000)
    box.server.faults[NAME] = fault
    done = box.fetch()
    assert box.part.read_bytes() == CONTENT
    assert done.count.restarts == 0
    assert [request.range for request in box.server.requests] == ["", "bytes=60000-", "bytes=120000-", "bytes=180000-"]
    assert box.sent == len(CONTENT)


WRONG_RANGES = {
    "200-instead": Fault(ignore_range=True),
    "other-start": Fault(shift=7),
    "lied-start": Fault(lie_range=True),
    "other-total": Fault(wrong_total=5),
    "no-etag": Fault(no_etag=True),
    "416": Fault(status=416, times=1),
    "chunked": Fault(chunked=True),
    "500-first": Fault(status=500, times=2),
    "429-first": Fault(status=429, times=1),
}


@pytest.mark.parametrize("name", WRONG_RANGES)
def test_wrong_answer_to_a_range_never_ends_in_a_wrong_file(name: str, box: Box) -> None:
    box.begin(120_000)
    box.server.faults[NAME] = WRONG_RANGES[name]
    try:
        box.fetch()
    except (SourceGone, Untrusted) as err:
        assert name == "other-total", err
        assert box.part.stat().st_size == 120_000  # to go on with
    else:
        assert box.part.read_bytes() == CONTENT


def test_server_without_ranges_is_compared_with_what_is_there(box: Box) -> None:
    """Nothing is thrown away, so a line that breaks later each time ends in the whole file."""
    box.begin(120_000)
    box.server.faults[NAME] = Fault(ignore_range=True, cut_after=160_000, times=1)
    download = box.fetch()
    assert box.part.read_bytes() == CONTENT
    assert download.count.restarts == 0


def test_content_that_changed_under_its_name_is_found_out(box: Box) -> None:
    box.begin(120_000)
    other = bytes(reversed(CONTENT))
    box.server.faults[NAME] = Fault(other=other)
    with pytest.raises(Untrusted) as caught:
        box.fetch()
    assert caught.value.code == "target-digest"
    assert not box.part.exists()


def test_page_of_a_gateway_does_not_cost_what_has_come(box: Box) -> None:
    box.begin(120_000)
    box.server.faults[NAME] = Fault(other=b"<html>please log in</html>", chunked=True, times=2)
    assert box.fetch().count.restarts == 0
    assert box.part.read_bytes() == CONTENT
    assert box.sent < 81_000


def test_part_that_rotted_is_fetched_once_more_and_whole(box: Box) -> None:
    box.begin(120_000)
    box.part.write_bytes(b"\0" * 120_000)
    download = box.fetch()
    assert box.part.read_bytes() == CONTENT
    assert download.count.restarts == 1


def test_part_longer_than_the_file_is_thrown_away(box: Box) -> None:
    box.part.write_bytes(CONTENT + b"x")
    box.fetch()
    assert box.part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(more=b"x"), "target-length"),
        (Fault(more=b"x", chunked=True), "target-length"),
        (Fault(endless=True), "target-length"),
        (Fault(less=1), "target-length"),
        (Fault(less=1, chunked=True), "cut"),
        (Fault(flip_bit=5), "target-digest"),
        (Fault(flip_bit=8 * 100_000), "target-digest"),
        (Fault(flip_bit=-1), "target-digest"),
        (Fault(gzip=True), "encoded"),
        (Fault(status=404), "http-404"),
        (Fault(status=503), "http-503"),
        (Fault(redirect="file:///etc/passwd"), "redirects"),
        (Fault(redirect="/" + NAME), "redirects"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_file_is_refused_and_never_longer_than_signed(fault: Fault, code: str, box: Box) -> None:
    box.server.faults[NAME] = fault
    with pytest.raises((Untrusted, SourceGone)) as caught:
        box.fetch()
    assert caught.value.code == code
    assert not box.part.exists() or box.part.stat().st_size < len(CONTENT)


def test_redirect_is_followed_and_goes_on_where_it_was(box: Box) -> None:
    box.server.repository.files["elsewhere"] = CONTENT
    box.server.faults[NAME] = Fault(redirect="/elsewhere")
    box.begin(150_000)
    box.fetch()
    assert box.part.read_bytes() == CONTENT
    assert box.server.requests[1].range == "bytes=150000-"


@pytest.mark.parametrize("fault", [Fault(bytes_per_s=200), Fault(drip_head=True)], ids=["body", "head"])
def test_server_that_drips_ends_at_the_deadline(fault: Fault, box: Box) -> None:
    box.server.faults[NAME] = fault
    with pytest.raises(SourceGone) as caught:
        box.fetch(most_s=1.0)
    assert caught.value.code == "deadline"
    box.server.faults.clear()
    box.fetch()
    assert box.part.read_bytes() == CONTENT


def test_stop_ends_a_download_that_waits(box: Box) -> None:
    box.server.faults[NAME] = Fault(stall_after=60_000)
    stop = threading.Event()
    waiting = Source(ca=None, limits=FetchLimits(stall_s=300), stop=stop)
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(SourceGone) as caught:
        box.fetch(waiting)
    assert caught.value.code == "stopped"
    assert time.monotonic() - began < 60
    assert box.part.stat().st_size == 60_000


def test_rate_is_kept_below_what_was_said(box: Box) -> None:
    began = time.monotonic()
    box.fetch(quick(rate_bytes_per_s=400_000))
    assert time.monotonic() - began > 0.45


@pytest.fixture
def tls_box(repository: TufRepository, tmp_path: Path) -> Iterator[tuple[Box, Path]]:
    repository.files[NAME] = CONTENT
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("models", hosts=("127.0.0.1",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    with TufServer(repository, tls=context) as server:
        yield Box(server, tmp_path), authority.cert


def secured(ca: Path | None) -> Source:
    return Source(ca=ca, limits=quick().limits, stop=threading.Event())


def test_https_counts_only_with_a_ca_that_we_trust(tls_box: tuple[Box, Path]) -> None:
    box, ca = tls_box
    with pytest.raises(SourceGone) as caught:
        box.fetch(secured(None))
    assert caught.value.code == "tls-untrusted"
    assert box.server.requests == []
    box.begin(150_000)
    box.fetch(secured(ca))
    assert box.part.read_bytes() == CONTENT
    with pytest.raises(BadConfig):
        Box(box.server, box.part.parent / "ca").fetch(secured(box.part))


def test_https_breaks_like_any_other_line_and_leads_nowhere_else(tls_box: tuple[Box, Path]) -> None:
    box, ca = tls_box
    box.server.faults[NAME] = Fault(stall_after=60_000, times=1)
    box.fetch(secured(ca))
    assert box.part.read_bytes() == CONTENT
    box.part.unlink()
    box.server.faults[NAME] = Fault(redirect="http://127.0.0.1/" + NAME)
    with pytest.raises(SourceGone) as caught:
        box.fetch(secured(ca))
    assert caught.value.code == "redirects"


def test_https_to_a_server_that_speaks_plain_http_is_the_world(box: Box) -> None:
    box.server.url = box.server.url.replace("http:", "https:")
    with pytest.raises(SourceGone) as caught:
        box.fetch()
    assert caught.value.code in ("tls", "cut", "stalled")


@pytest.mark.parametrize(
    "url", ["http://a b", "http://[::1", "http://x:99999", "ftp://host", "http://", "http://\u2028"]
)
def test_url_that_is_none_is_the_world_and_no_crash(url: str, box: Box) -> None:
    box.server.url = url
    with pytest.raises(SourceGone) as caught:
        box.fetch()
    assert caught.value.code in ("bad-url", "not-http", "unreachable")


def test_etag_file_that_rotted_is_left_out(box: Box) -> None:
    box.begin(150_000)
    box.part.with_name(box.part.name + ETAG_SUFFIX).write_bytes(b'"\xff\r\nX: y"')
    box.fetch()
    assert box.server.requests[0].if_range == ""
    assert box.sent == 50_000


def test_nobody_listening_is_the_world(box: Box) -> None:
    box.server.url = "http://127.0.0.1:9"
    with pytest.raises(SourceGone) as caught:
        box.fetch()
    assert caught.value.code == "unreachable"


def test_disk_that_fills_up_keeps_what_it_has(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = download_module._write_all, [100_000]

    def write(file: object, content: bytes) -> None:
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        real(file, content)  # type: ignore[arg-type]

    monkeypatch.setattr(download_module, "_write_all", write)
    with pytest.raises(NoSpace):
        box.fetch()
    assert issubclass(NoSpace, StorageFailing)
    monkeypatch.undo()
    have = box.part.stat().st_size
    assert 0 < have <= 100_000
    box.fetch()
    assert box.server.requests[-1].range == f"bytes={have}-"


def test_random_bad_lines_end_in_the_file(box: Box) -> None:
    """Each answer is cut, shifted, lied about or whole, at random; in the end the file is right."""
    rng = random.Random(7)

    class Moody(dict):  # type: ignore[type-arg]
        def items(self) -> list[tuple[str, Fault]]:  # type: ignore[override]
            cut = rng.randrange(1, 40_000)
            kinds = (Fault(cut_after=cut), Fault(shift=rng.randrange(1, 9), cut_after=cut), Fault(ignore_range=True))
            return [(NAME, rng.choice(kinds))]

    box.server.faults = Moody()
    box.fetch(quick(tries=100))
    assert box.part.read_bytes() == CONTENT
