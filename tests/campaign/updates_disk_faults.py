"""A full or failing disk at every file system call of an update: the box goes on, and then takes the model.

    python -m tests.campaign.updates_disk_faults                        # every point of all four, about 20 minutes
    python -m tests.campaign.updates_disk_faults --every 25 --of upgrade

The work is that of `updates_killed`: a first install, an upgrade, a person's rollback, an upgrade that clears away. One
call at a time answers ENOSPC (calls that write) or EIO (those, and calls that read or look), in `--burst` calls of that
name on end; then the disk is well again. Bad is: the process ends while a model judges, whatever for; what lies on the
disk is not what `update_device.wrong_on_disk` allows; a start that begins with neither the old nor the new model, or
not within 10 s; the new model does not judge after 3 starts, as if the disk's fault were the model's. A process that
ends before any model judges (its lock, its only package) is started again, as systemd does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.campaign import zygote
from tests.campaign.kill_points import CALLS, points_of
from tests.campaign.ledger import summary
from tests.campaign.update_device import World, be_quiet
from tests.campaign.updates_killed import NAMES, Story, run_once, stories

WRITING = frozenset(
    {"write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat",
     "ftruncate", "fallocate", "sendfile", "copy_file_range"}
)  # fmt: skip
LOOKING = frozenset(
    {"read", "pread64", "openat", "getdents64", "newfstatat", "fstat", "lstat", "stat", "unlink", "unlinkat", "rmdir",
     "readlink", "access", "chmod", "statfs"}
)  # fmt: skip
FAULTS = {"ENOSPC": WRITING, "EIO": WRITING | LOOKING}


def at_every_call_of(story: Story, world: World, every: int, burst: int, ended: Counter[str]) -> tuple[int, int]:
    """How many faults, and how many were bad."""
    status, trace, wrong = run_once(story, world, [], "-e", f"trace={CALLS}")
    assert status == 0 and not wrong, (story.name, status, wrong)
    points, faults, bad = points_of(trace), 0, 0
    for fault, calls in FAULTS.items():
        for call, number in [point for point in points if point[0] in calls][::every]:
            when = f"{number}..{number + burst - 1}" if burst > 1 else str(number)
            options = ("-e", f"trace={call}", "-e", f"inject={call}:error={fault}:when={when}")
            status, _, wrong = run_once(story, world, [], *options)
            faults += 1
            ended[fault if status == 0 else f"{fault}, before anything judged"] += 1
            if wrong or status == zygote.SIGKILLED:
                bad += 1
                print(f"{story.name}: {fault} at {call} number {number} ({status}): {wrong}", file=sys.stderr)
    print(f"{story.name}: {faults} faults, {bad} bad", file=sys.stderr, flush=True)
    return faults, bad


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th point")
    parser.add_argument("--burst", type=int, default=1, help="so many calls on end answer with the error")
    parser.add_argument("--of", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args(arguments)
    if reason := zygote.reason_not_to():
        print(summary("updates_disk_faults", 0, 0, skipped=reason))
        return 1
    be_quiet()
    ended: Counter[str] = Counter()
    faults = bad = 0
    with tempfile.TemporaryDirectory(prefix="updates-", dir="/dev/shm") as place:
        root = Path(place)
        world = World.make(root / "world")
        for story in stories(root, world):
            if story.name in options.of:
                more, worse = at_every_call_of(story, world, options.every, options.burst, ended)
                faults, bad = faults + more, bad + worse
    print(summary("updates_disk_faults", faults, bad, every=options.every, burst=options.burst, ended=dict(ended)))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
