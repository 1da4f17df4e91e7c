"""When a V4L2 picture was taken, whether it is too old, how many are missing before it. No I/O; time is an argument.

1. The kernel's time stamp counts where the driver says that it is CLOCK_MONOTONIC and it can be: the first ones lie
   within the stream's life. One that is zero, repeated, in the future or going back is replaced by the moment of
   arrival; one that is too old is believed.
2. With a kernel clock a picture is stale by its age. Without one, all buffers that lie ready after a pause of the
   reader longer than the age are stale: nobody knows when they were filled.
3. `missed` is gaps in the driver's sequence plus dropped stale pictures. A sequence that stands still or starts
   again counts nothing.
"""

from __future__ import annotations

_HALF = 1 << 31
_FUTURE_NS = 20_000_000
_BEFORE_STREAM_NS = 2_000_000_000


class Arrivals:
    """One running stream's arithmetic of time and number."""

    def __init__(self, now_ns: int, *, max_age_ns: int, buffers: int) -> None:
        self.captured_ns = now_ns
        """CLOCK_MONOTONIC of the last picture that was not stale, ns; never goes back."""
        self.number = -1
        """The driver's sequence, unwrapped, and going on where the driver's does not."""
        self._kernel_ns = 0
        self._proved = False
        self._started_ns = self._left_ns = now_ns
        self._max_age_ns = max_age_ns
        self._buffers = buffers
        self._unknown_age = 0
        self._sequence = -1
        self._missed = 0

    def come_back(self, now_ns: int) -> None:
        """The reader asks for a picture; after a long pause what lies ready may be old."""
        if now_ns - self._left_ns > self._max_age_ns:
            self._unknown_age = self._buffers

    def leave(self, now_ns: int) -> None:
        """The reader goes off with what it got."""
        self._left_ns = now_ns

    @property
    def doubtful(self) -> bool:
        """True: what lies ready now may be from before a pause."""
        return self._unknown_age > 0

    def was_empty(self) -> None:
        """Nothing lay ready: what comes from now on is new."""
        self._unknown_age = 0

    def take(self, now_ns: int, kernel_ns: int, sequence: int) -> bool:
        """Account for one buffer; `kernel_ns` 0: the driver gives no monotonic time stamp. True: it is stale."""
        self._count(sequence)
        if self._believes(kernel_ns, now_ns):
            stale = now_ns - kernel_ns > self._max_age_ns
        else:
            kernel_ns, stale = now_ns, self._unknown_age > 0
        if not stale:
            self.captured_ns = min(kernel_ns, now_ns) if kernel_ns > self.captured_ns else now_ns
        self._unknown_age = max(0, self._unknown_age - 1)
        self._missed += stale
        return stale

    def _believes(self, kernel_ns: int, now_ns: int) -> bool:
        repeated, self._kernel_ns = kernel_ns == self._kernel_ns, kernel_ns
        if kernel_ns == 0 or repeated or kernel_ns > now_ns + _FUTURE_NS:
            return False
        self._proved = self._proved or kernel_ns > self._started_ns - _BEFORE_STREAM_NS
        return self._proved

    def take_none(self, now_ns: int) -> None:
        """Account for a picture that the driver could not deliver."""
        self._count(self._sequence + 1)
        self.captured_ns = now_ns

    def _count(self, sequence: int) -> None:
        step = (sequence - self._sequence) % (1 << 32) if self._sequence >= 0 else 1
        gap = step if 0 < step < _HALF else 1
        self.number = self.number + gap if self._sequence >= 0 else sequence
        self._missed += gap - 1
        self._sequence = sequence

    def missed(self) -> int:
        """Pictures lost since this was last asked."""
        missed, self._missed = self._missed, 0
        return missed
