"""ENOSPC and EIO at every file system call of the outbox while inspection goes on; then the disk is well again.

    python -m tests.campaign.disk_faults                    # every point, both errors, single and in bursts
    python -m tests.campaign.disk_faults --every 40         # a sample

The thread that inspects hands over a report at a time to the real `OutboxWriter` thread, whose system calls strace
makes fail: the n-th of a name, or BURST of them from the n-th on. Asked for at each point: every report that was handed
over lies in the file exactly once, in order (nothing is dropped: the bound is larger); handing over never waited for
the disk; whenever keeping a report failed, an alarm stood until it worked again; no alarm of a failure is left at the
end. Read back with `sqlite3`: see `ledger`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from edge_inspect.delivery import writer as writer_module
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, ReportId
from tests.campaign import zygote
from tests.campaign.kill_points import points_of
from tests.campaign.ledger import Ledger, broken_promises, rows, summary
from tests.campaign.syscalls import CAP_BYTES, HOUR_NS, open_outbox
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

CALLS = (
    "openat,mkdir,pwrite64,pread64,fdatasync,fsync,ftruncate,fallocate,unlink,rename,fstat,newfstatat,mmap,fcntl,flock,"
    "statfs"
)
ERRORS = ("ENOSPC", "EIO")
BURST = 7
REPORTS = 24
WAIT_S = 60.0


class Watched(Outbox):
    """Notes every failure of keeping reports, and whether an alarm stood when it was tried again."""

    failures = 0
    silent = 0
    writer: OutboxWriter | None = None
    _failed = False

    def put_many(self, reports: Sequence[DefectReport]) -> list[ReportId]:
        if self._failed and self.writer is not None and not self.writer.alarms():
            self.silent += 1
        try:
            ids = super().put_many(reports)
        except StorageFailing:
            self.failures += 1
            self._failed = True
            raise
        self._failed = False
        return ids


def inspect(folder: Path) -> None:
    """What is traced: a writer thread, and an inspecting thread that must not notice. Exits by AssertionError."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    writer_module.FIRST_WAIT_S, writer_module.LONGEST_WAIT_S, writer_module.TEND_EVERY_S = 0.002, 0.01, 0.02
    open_outbox(folder, UTC_NS).close()  # sets the reserve's measures; its calls fail, too
    box = Watched(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, utc_ns=lambda: UTC_NS + 3 * HOUR_NS)
    writer = OutboxWriter(box, wake=lambda: None)
    box.writer = writer
    stop = threading.Event()
    thread = threading.Thread(target=writer.run, args=(stop,))
    thread.start()
    for part in range(1, REPORTS + 1):
        assert writer.hand_over(report(part, picture_bytes=part % 5 * 3000))
        if part % 3 == 0:
            _until(lambda: writer.waiting == 0)
    _until(lambda: writer.waiting == 0)
    _until(lambda: not writer.alarms())
    assert box.silent == 0, f"{box.silent} of {box.failures} failures raised no alarm"
    stop.set()
    thread.join(WAIT_S)
    assert not thread.is_alive() and writer.dropped == 0
    box.close()


def _until(condition: object) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the disk is well again, the outbox is not"
        time.sleep(0.001)


def run_once(*options: str) -> tuple[str, list[str]]:
    """One process under strace with `options`: the trace, and broken promises."""
    with tempfile.TemporaryDirectory(prefix="disk-faults-", dir="/dev/shm") as place:
        folder = Path(place)
        status, trace = zygote.traced(lambda: inspect(folder), *options)
        if status != 0:
            return trace, [f"the process ended with {status}"]
        found = rows(folder / FILE_NAME)
        wrong = broken_promises(Ledger(put={row.part: (row.epoch, row.seq) for row in found}), found)
        if [row.part for row in found] != list(range(1, REPORTS + 1)):
            wrong.append(f"handed over 1 to {REPORTS}, kept {[row.part for row in found]}")
        if any(path.name.startswith(f"{FILE_NAME}.broken") for path in folder.iterdir()):
            wrong.append("a file that was not broken was set aside")
        return trace, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th point")
    parser.add_argument("--errors", nargs="+", choices=ERRORS, default=list(ERRORS))
    options = parser.parse_args(arguments)
    if reason := zygote.reason_not_to() or ("" if shutil.which("sqlite3") else "the command sqlite3 is not installed"):
        print(summary("disk_faults", 0, 0, skipped=reason))
        return 1
    trace, wrong = run_once("-e", f"trace={CALLS}")
    assert not wrong, wrong
    points = points_of(trace)
    hit = failures = 0
    for error in options.errors:
        for first, burst in ((0, ""), (options.every // 2, "..{last}+1")):  # a sample of the bursts is at other points
            for call, number in points[first :: options.every]:
                when = f"{number}{burst.format(last=number + BURST - 1)}"
                trace, wrong = run_once("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}")
                struck = [line for line in trace.splitlines() if "(INJECTED)" in line]
                if any("MAP_ANONYMOUS" in line for line in struck):
                    continue  # memory, such as a thread's stack: no disk is asked for it
                hit += bool(struck)
                if wrong:
                    failures += 1
                    print(f"{error} at {call} {when}: {wrong}", file=sys.stderr, flush=True)
            print(f"{error}{' in bursts' if burst else ''}: {hit} faults so far", file=sys.stderr, flush=True)
    print(summary("disk_faults", hit, failures, points=len(points), every=options.every))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
