"""A process that keeps pictures in a small ring until it is killed.

python -m tests.edge.delivery.evidence_forever FOLDER SEED
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.edge.delivery.evidence_parts import new_store, noise, running, subject


def main(folder: Path, seed: int) -> None:
    store = new_store(folder, cap_bytes=4 << 20, run_id=f"{seed:08x}", most_per_min=10**6)
    part, told = 0, False
    with running(store):
        while True:
            part += store.offer(subject(part, "OK" if part % 3 == 0 else "NG"), noise(part % 50))
            time.sleep(0.002)
            if store.pruned > 20 and not told:
                told = True
                print("pruning", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
