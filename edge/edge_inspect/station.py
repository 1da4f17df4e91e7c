"""A station: one camera of the configuration and everything built for it once its picture size is known.

1. What can be wrong without a camera (recipe, model package) is found out when the station is made.
2. The lane appears only whole: ring, engine warm and its known answer checked, judge.
3. Cameras that want the same model, precision and input shape share one engine.
4. No camera is fitted while `Engines.lock` is held: whoever exchanges models sees all of them, or none of a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import structlog

from edge_inspect.capture.grab import Grabber
from edge_inspect.capture.open import camera_from
from edge_inspect.capture.picture_check import PictureCheck
from edge_inspect.capture.protocol import Camera, Format
from edge_inspect.capture.ring import Policy, Ring
from edge_inspect.config import CameraConfig, ModelConfig
from edge_inspect.counts import LaneCounts
from edge_inspect.errors import BadConfig, BadModel
from edge_inspect.health.vitals import CameraPulse
from edge_inspect.inference.engine import Engine, preferred
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, find_model
from edge_inspect.inference.providers import choose
from edge_inspect.lane import FittedModel, Lane, fit
from edge_inspect.line.desk import CAMERA_LOST, NOT_READY, Desk
from edge_inspect.line.outlet import Outlet
from edge_inspect.reporting import Identity
from edge_inspect.verdict.parts import part_finder
from edge_inspect.verdict.recipe import find_recipe, load_recipe
from edge_wire import messages as wire
from edge_wire.fields import digest_of
from edge_wire.topics import Topics

log = structlog.get_logger()

FROZEN_WHERE_PICTURES_MAY_REPEAT = 50


class Engines:
    """One engine per distinct model file, shared."""

    def __init__(self, model: ModelConfig, cache_dir: Path) -> None:
        self._model = model
        self._cache_dir = cache_dir
        self.lock = threading.RLock()
        self.building: Callable[[ModelPackage], AbstractContextManager[None]] = lambda package: nullcontext()
        """Around the making of each engine that is to judge: who counts what comes of it."""
        self._engines: dict[str, Engine] = {}

    def get(self, package: ModelPackage, form: Format) -> Engine:
        """The engine whose input wastes least on this camera's pictures: loaded, warm, its known answer checked."""
        with self.lock:
            return self._get(
                package, form, self._engines, threads=self._model.threads, spin=True, building=self.building
            )

    def get_beside(self, package: ModelPackage, form: Format, engines: dict[str, Engine]) -> Engine:
        """The same for a model that disturbs nobody: on one thread that does not wait busily; kept in `engines`."""
        return self._get(package, form, engines, threads=1, spin=False, building=lambda package: nullcontext())

    def _get(
        self,
        package: ModelPackage,
        form: Format,
        engines: dict[str, Engine],
        *,
        threads: int,
        spin: bool,
        building: Callable[[ModelPackage], AbstractContextManager[None]],
    ) -> Engine:
        model = self._model
        source, prefer = (form.height_px, form.width_px), preferred(choose(model.provider))
        variant = package.variant(model.precision, model.shape, source=source, prefer=prefer)
        key = f"{package.digest}/{variant.file}"
        if key not in engines:
            with building(package):
                engine = Engine(
                    package, provider=model.provider, threads=threads, shape=model.shape, precision=model.precision,
                    source=source, spin=spin, cuda_graph=model.cuda_graph, cache_dir=self._cache_dir,
                )  # fmt: skip
                engine.warm_up()
                engine.known_answer()
            engines[key] = engine
        return engines[key]

    def free(self, used: Callable[[Engine], bool]) -> None:
        """Close what nobody uses any more."""
        with self.lock:
            for key, engine in list(self._engines.items()):
                if not used(engine):
                    del self._engines[key]
                    engine.close()

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()


class Station:
    """Raises BadConfig, BadModel or BadSource when it can never work."""

    def __init__(
        self,
        config: CameraConfig,
        topics: Topics,
        engines: Engines,
        model_dir: str | None,
        *,
        camera: Camera | None,
        announce: Callable[[Lane], None],
        ready: threading.Condition,
        first_open_s: float | None,
    ) -> None:
        self.config = config
        self.recipe = load_recipe(find_recipe(config.recipe) if config.recipe else find_recipe())
        self.package = ModelPackage.load(find_model(config.model or model_dir or DEFAULT_MODEL))
        """What judges this camera's parts, now or once its pictures are known."""
        self.recipe.thresholds(self.package.manifest.classes)  # a class that it lacks is said now
        self.follows = config.model is None
        """It has the model of `[model] dir`, whichever that is at the time; else one of its own."""
        self.on_trial = False
        self.counts = LaneCounts()
        self.camera = camera or camera_from(config.address(), **config.options())
        self.lane: Lane | None = None
        self.line: Desk | Outlet | None = None
        """Its production line's side, if it has one; set before the grabber runs."""
        self.identity: Identity | None = None
        self._form: Format | None = None
        self.grabber = Grabber(
            config.name, self.camera, self._prepare, self.counts, first_open_s=first_open_s, stall_s=config.stall_s
        )
        self._topics = topics
        self._engines = engines
        self._announce = announce
        self._ready = ready

    @property
    def policy(self) -> Policy:
        """A recording waits for us; a live camera follows the configuration, else its recipe."""
        if not self.camera.live:
            return "every"
        return self.config.policy or self.recipe.frames.policy

    @property
    def status(self) -> str:
        """One of wire.CameraStatus."""
        return "starting" if self.grabber.state == "opening" else self.grabber.state

    @property
    def trouble(self) -> str:
        """A short code of what is wrong now: the camera is lost, or shows a dead picture; else empty."""
        if self.grabber.state == "lost":
            return "camera-lost"
        return self.lane.dead_picture if self.lane else ""

    @property
    def line_trouble(self) -> str:
        """Why a trigger cannot be judged at all right now, as the line is told; else empty.

        A dead picture is no such reason: where a lamp flashes with the trigger, every other picture is black.
        """
        if self.lane is None or self.grabber.state == "opening":
            return NOT_READY
        return "" if self.grabber.state == "up" else CAMERA_LOST

    @property
    def drift(self) -> str:
        """How the pictures have changed since the start (`darker`, `blurred`, ...); empty when they have not."""
        return self.lane.check.drift() if self.lane else ""

    def pulse(self) -> CameraPulse:
        lane, identity = self.lane, self.identity
        return CameraPulse(
            name=self.config.name,
            state=self.grabber.state,
            counts=self.counts,
            overruns=lane.ring.overrun if lane else 0,
            model=identity.model if identity else None,
            provider=lane.engine.provider if lane else None,
            trouble=self.trouble,
            drift=self.drift,
            ring=lane.ring.glance() if lane else {},
            frame_bytes=lane.ring.slots[0].pixels.nbytes if lane else 0,
        )

    def fit(self, package: ModelPackage) -> FittedModel | None:
        """That package made ready for this camera; None as long as nobody knows its pictures.

        Raises BadModel: `recipe-class` when the recipe needs a class that it lacks.
        """
        self.check(package)
        return self._fit(self._engines.get(package, self._form)) if self._form else None

    def fit_beside(self, package: ModelPackage, engines: dict[str, Engine]) -> FittedModel | None:
        """The same for a model that judges beside the one in use; its engine is one of, or comes into, `engines`."""
        self.check(package)
        return self._fit(self._engines.get_beside(package, self._form, engines)) if self._form else None

    def check(self, package: ModelPackage) -> None:
        """Raises BadModel `recipe-class` when the recipe needs a class that it lacks."""
        try:
            self.recipe.thresholds(package.manifest.classes)
        except BadConfig as err:
            raise BadModel("recipe-class", str(err)) from err

    def _fit(self, engine: Engine) -> FittedModel:
        assert self._form is not None
        return fit(engine, self.recipe, self._form.height_px, self._form.width_px)

    def adopt(self, package: ModelPackage, model: FittedModel | None) -> None:
        """From now on this is its model. Called with `Engines.lock` held, when its lane has it, too."""
        self.package = package
        if model is not None and self.identity is not None:
            self.identity = replace(self.identity, model=model.ref)

    def _prepare(self, form: Format) -> Ring:
        """Called by the grab thread at the first opening: build the lane and announce it."""
        with self._engines.lock:
            self._form = form
            model = self.fit(self.package)
            assert model is not None
            model.on_trial = self.on_trial
            return self._build(form, model)

    def _build(self, form: Format, model: FittedModel) -> Ring:
        height_px, width_px = form.height_px, form.width_px
        each_frame = self.recipe.part.mode == "frame"
        lane = Lane(
            name=self.config.name,
            ring=Ring(
                self.config.slots, height_px, width_px, self.policy, ready=self._ready, drops_are_gaps=not each_frame
            ),
            model=model,
            finder=part_finder(self.recipe, height_px, width_px, self.line if isinstance(self.line, Desk) else None),
            recipe=self.recipe,
            counts=self.counts,
            check=PictureCheck(height_px, width_px, frozen_frames=self._frozen_frames()),
            line=self.line,
        )
        self.identity = Identity(
            topics=self._topics,
            camera_digest=self._camera_digest(form),
            recipe=wire.RecipeRef(name=self.recipe.name, version=self.recipe.version, digest=self.recipe.digest),
            model=model.ref,
        )
        if not lane.ring.locked:
            log.info("frames.not_locked", camera=lane.name, limit="RLIMIT_MEMLOCK")
        self.lane = lane
        self._announce(lane)
        return lane.ring

    def _frozen_frames(self) -> int | None:
        """Where each frame is a part, a picture that comes a second time is a part that nobody saw.

        A recording may rightly repeat itself.
        """
        if not self.camera.live:
            return None
        if self.camera.may_repeat:
            return FROZEN_WHERE_PICTURES_MAY_REPEAT
        return 5 if self.recipe.part.mode == "barrier" else 2

    def _camera_digest(self, form: Format) -> str:
        """Another camera, format or setting: another digest. The settings that the driver gave count, not the asked."""
        told = {
            "source": self.camera.label,
            "size": [form.width_px, form.height_px],
            "pixel_format": form.pixel_format,
            "settings": dict(form.settings),
        }
        return digest_of(told)
