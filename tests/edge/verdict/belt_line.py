"""A belt with parts on it, drawn as simply as can be, for what the light barrier must withstand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_inspect.verdict.parts import Look, PartFinder

PERIOD_NS = 40_000_000
Pixels = NDArray[np.uint8]


@dataclass
class BeltLine:
    """Parts of `lengths` px, `spacing` px apart, that come in over the right edge and leave over the left."""

    lengths: Sequence[int]
    spacing: int = 60
    speed: float = 8.0
    width: int = 640
    height: int = 360
    rows: tuple[int, int] = (40, 320)
    belt: tuple[int, int, int] = (200, 205, 200)
    part: tuple[int, int, int] = (90, 90, 95)
    noise: float = 0.0
    seed: int = 0
    pictures: list[Pixels] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        high = self.rows[1] - self.rows[0]
        for length in self.lengths:
            coarse = rng.integers(-25, 26, (high // 20 + 1, length // 20 + 1, 1))
            texture = np.repeat(np.repeat(coarse, 20, 0), 20, 1)[:high, :length]
            self.pictures.append(np.asarray(np.clip(np.array(self.part) + texture, 0, 255), np.uint8))

    def starts(self) -> list[int]:
        """Where each part begins on the belt, px; the picture's right edge is at `width` when nothing has moved."""
        return [self.width + sum(self.lengths[:n]) + n * self.spacing for n in range(len(self.lengths))]

    @property
    def frames(self) -> int:
        """Until the last part has left."""
        return int((self.starts()[-1] + self.lengths[-1]) / self.speed) + 3

    def frame(self, number: float) -> Pixels:
        """The picture after the belt moved by number * speed px."""
        picture = np.empty((self.height, self.width, 3), np.uint8)
        picture[:] = self.belt
        top, bottom = self.rows
        for start, part in zip(self.starts(), self.pictures, strict=True):
            x = round(start - number * self.speed)
            x0, x1 = max(0, x), min(self.width, x + part.shape[1])
            if x1 > x0:
                picture[top:bottom, x0:x1] = part[:, x0 - x : x1 - x]
        if not self.noise:
            return picture
        noise = np.random.default_rng([self.seed, int(number * 1000)]).standard_normal(picture.shape, np.float32)
        return np.asarray(np.clip(picture + noise * self.noise, 0, 255), np.uint8)

    def play(self, skip: int = 1) -> Iterator[tuple[int, Pixels]]:
        for number in range(0, self.frames, skip):
            yield number, self.frame(number)

    def part_in(self, look: Look, number: float) -> int | None:
        """Which part fills the look's box, by at least 80 % both ways."""
        for index, start in enumerate(self.starts()):
            x0 = start - number * self.speed
            x1 = x0 + self.lengths[index]
            both = min(x1, look.box[2]) - max(x0, look.box[0])
            if both >= 0.8 * self.lengths[index] and both >= 0.8 * (look.box[2] - look.box[0]):
                return index
        return None


@dataclass
class Watched:
    """What a finder made of a line."""

    looks: list[tuple[int, Look]] = field(default_factory=list)
    unjudged: list[tuple[int, str]] = field(default_factory=list)

    def see(self, finder: PartFinder, number: int, pixels: Pixels, at_ns: int | None = None) -> None:
        looks = finder.see(pixels, number * PERIOD_NS if at_ns is None else at_ns)
        self.looks += [(number, look) for look in looks]
        self.unjudged += finder.unjudged()

    def blind(self, finder: PartFinder, number: int, reason: str) -> None:
        finder.blind(reason, number * PERIOD_NS)
        self.unjudged += finder.unjudged()

    def last_looks(self) -> list[tuple[int, Look]]:
        return [(number, look) for number, look in self.looks if look.last]


def watch(finder: PartFinder, line: BeltLine, skip: int = 1) -> Watched:
    watched = Watched()
    for number, pixels in line.play(skip):
        watched.see(finder, number, pixels)
    return watched
