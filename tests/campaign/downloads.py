"""A model is downloaded over every bad line we know: cut, half-open, slow, lied about, spoiled, endless.

    python -m tests.campaign.downloads --each 100

Each case is a real look at a simulated repository (`fetch_once`: metadata, rollout, files, package, offer) with one
fault on the model's file, then a second look without it. What must hold:

1. While the fault holds: the package is whole and right, or nothing is offered and the code is the expected one.
2. Nothing on disk is ever longer than signed.
3. After the second look the offer verifies without network, every byte of it.
4. Where the server can resume, the model's bytes were sent exactly once in all; elsewhere at most as often as its kind
   allows (an answer that is refused by its head was sent into the network's buffers all the same).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edge_inspect.cli.log import configure_log
from edge_inspect.errors import InspectError
from edge_inspect.update.fetch import FetchSettings, fetch_once
from edge_inspect.update.offers import read_offer
from edge_inspect.update.offline import check_offline
from edge_inspect.update.transport import FetchLimits
from tests.campaign.ledger import summary
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import PRODUCT, Fault, TufRepository, TufServer

MODEL = "targets/*model.onnx"
LIMITS = FetchLimits(
    deadline_s=60, metadata_s=30, connect_s=10, stall_s=10, tries=30, first_wait_s=0.001, longest_wait_s=0.01,
    min_free_bytes=0,
)  # fmt: skip
WHOLE = ""


@dataclass(frozen=True)
class Kind:
    """fault: made anew for each case, of a random generator, the case's number and the file's size."""

    fault: Callable[[random.Random, int, int], Fault]
    codes: frozenset[str]
    """What the look with the fault may end in; WHOLE: in the package."""
    most_sent: float = 1.0
    """The model's bytes may be sent so often, over both looks."""
    limits: FetchLimits = LIMITS
    begun: bool = False
    """A first answer is cut at a random place, so that the fault meets a request for the rest."""
    share: float = 1.0
    """Of the cases asked for: some kinds take long."""


def _codes(*codes: str) -> frozenset[str]:
    return frozenset(codes)


ONE_TRY = replace(LIMITS, tries=0)
HASTY = replace(LIMITS, stall_s=0.3)
SHORT = replace(LIMITS, deadline_s=1.5)

KINDS: dict[str, Kind] = {
    "cut": Kind(lambda rng, n, size: Fault(cut_after=rng.randrange(size), times=1), _codes(WHOLE)),
    "cut-always": Kind(lambda rng, n, size: Fault(cut_after=rng.randrange(size // 9, size)), _codes(WHOLE)),
    "cut-and-ended": Kind(lambda rng, n, size: Fault(cut_after=rng.randrange(size)), _codes("cut"), limits=ONE_TRY),
    "half-open": Kind(
        lambda rng, n, size: Fault(stall_after=rng.randrange(size), times=1), _codes(WHOLE), limits=HASTY, share=0.2
    ),
    "slow": Kind(lambda rng, n, size: Fault(bytes_per_s=size), _codes(WHOLE), share=0.05),
    "too-slow": Kind(lambda rng, n, size: Fault(bytes_per_s=size // 20), _codes("deadline"), 1.1, SHORT, share=0.05),
    "drip-head": Kind(lambda rng, n, size: Fault(drip_head=True), _codes("deadline"), limits=SHORT, share=0.03),
    "200-for-206": Kind(lambda rng, n, size: Fault(ignore_range=True), _codes(WHOLE), 2.0, begun=True),
    "shifted-range": Kind(lambda rng, n, size: Fault(shift=rng.randrange(1, 99)), _codes(WHOLE), 3.0, begun=True),
    "lied-range": Kind(lambda rng, n, size: Fault(lie_range=True), _codes(WHOLE), 3.0, begun=True),
    "wrong-total": Kind(
        lambda rng, n, size: Fault(wrong_total=rng.choice((-1, 1))), _codes(WHOLE, "target-length"), 2.1, begun=True
    ),
    "changed-file": Kind(
        lambda rng, n, size: Fault(other=rng.randbytes(size)), _codes("target-digest", "changed"), 5.0, begun=True
    ),
    "416": Kind(lambda rng, n, size: Fault(status=416, times=1), _codes(WHOLE), 2.0, begun=True),
    "no-etag": Kind(lambda rng, n, size: Fault(no_etag=True), _codes(WHOLE), begun=True),
    "truncated": Kind(lambda rng, n, size: Fault(less=1 + size * (n % 100) // 100), _codes("target-length"), 2.1),
    "truncated-chunked": Kind(
        lambda rng, n, size: Fault(less=1 + size * (n % 100) // 100, chunked=True), _codes("cut", "target-length"),
        2.1, ONE_TRY,
    ),
    "one-more": Kind(lambda rng, n, size: Fault(more=rng.randbytes(1)), _codes("target-length"), 2.1),
    "one-more-chunked": Kind(lambda rng, n, size: Fault(more=b"x", chunked=True), _codes("target-length"), 2.1),
    "flipped-bit": Kind(lambda rng, n, size: Fault(flip_bit=rng.randrange(8 * size)), _codes("target-digest"), 2.0),
    "endless": Kind(lambda rng, n, size: Fault(endless=True), _codes("target-length"), 60.0),
    "gzip": Kind(lambda rng, n, size: Fault(gzip=True), _codes("encoded"), limits=ONE_TRY, most_sent=2.0),
    "unavailable": Kind(
        lambda rng, n, size: Fault(status=rng.choice((500, 502, 503, 504, 429)), times=3), _codes(WHOLE)
    ),
    "gateway": Kind(lambda rng, n, size: Fault(other=b"<html>log in</html>", chunked=True, times=2), _codes(WHOLE), 1.2,
                    begun=True),
}  # fmt: skip


class Faults(dict[str, Fault]):
    """A first answer that is cut, then the fault."""

    def __init__(self, cut: Fault | None, fault: Fault) -> None:
        super().__init__({MODEL: fault})
        self._cut = cut

    def items(self) -> Iterator[tuple[str, Fault]]:  # type: ignore[override]
        if self._cut is not None and self._cut.times > 0:
            yield MODEL, self._cut
        yield from super().items()


class Bench:
    """One repository, one server; a fresh device for each case."""

    def __init__(self, place: Path, server: TufServer) -> None:
        self.size = next(len(v) for k, v in server.repository.files.items() if k.endswith("model.onnx"))
        self.root = server.repository.first_root
        self._place = place
        self._server = server

    def case(self, kind: Kind, rng: random.Random, number: int) -> list[str]:
        """What went wrong."""
        server = self._server
        with tempfile.TemporaryDirectory(prefix="box-", dir=self._place) as box:
            settings = FetchSettings(
                models_dir=Path(box), product=PRODUCT, channel="stable", site="s", line="l", device="d",
                url=server.url, root=self.root, limits=kind.limits,
            )  # fmt: skip
            server.requests.clear()
            server.sent.clear()
            cut = Fault(cut_after=rng.randrange(1, self.size), times=1) if kind.begun else None
            server.faults = Faults(cut, kind.fault(rng, number, self.size))
            code = self._look(settings)
            wrong = [] if code in kind.codes else [f"ended in {code or 'the package'}"]
            wrong += self._on_disk(settings, whole=not code)
            server.faults = {}
            if code := self._look(replace(settings, limits=LIMITS)):
                wrong.append(f"the look without a fault ended in {code}")
            wrong += self._on_disk(settings, whole=True)
            sent = server.sent_of(MODEL)
            if sent < self.size or sent > kind.most_sent * self.size:
                wrong.append(f"{sent} bytes were sent for a file of {self.size}")
            return wrong

    def _look(self, settings: FetchSettings) -> str:
        try:
            fetch_once(settings, threading.Event())
        except InspectError as err:
            return err.code or type(err).__name__
        return WHOLE

    def _on_disk(self, settings: FetchSettings, *, whole: bool) -> list[str]:
        parts = [path for path in (settings.models_dir / "staging").glob("*.part") if path.stat().st_size > self.size]
        wrong = [f"{path.name} is longer than signed" for path in parts]
        if (read_offer(settings.models_dir, PRODUCT, "stable") is not None) != whole:
            wrong.append("nothing is offered" if whole else "something is offered")
        elif whole:
            try:
                check_offline(settings.models_dir, self.root, PRODUCT, "stable")
            except InspectError as err:
                wrong.append(f"what is offered does not verify: {err}")
        return wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100, help="cases of each kind; of slow kinds fewer")
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    configure_log("error")
    rng = random.Random(options.seed)
    failures = trials = 0
    with tempfile.TemporaryDirectory(prefix="downloads-", dir="/dev/shm") as place:
        repository = TufRepository()
        repository.release(write_tiny_package(Path(place) / "package"))
        with TufServer(repository) as server:
            bench = Bench(Path(place), server)
            for name in options.kinds:
                kind = KINDS[name]
                failed = 0
                cases = max(1, round(options.each * kind.share))
                for number in range(cases):
                    if wrong := bench.case(kind, rng, number):
                        failed += 1
                        print(f"{name} {number}: {'; '.join(wrong)}", file=sys.stderr)
                print(f"{name}: {cases} cases, {failed} failures", file=sys.stderr, flush=True)
                trials, failures = trials + cases, failures + failed
    print(summary("downloads", trials, failures, kinds=len(options.kinds), bytes=bench.size))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
