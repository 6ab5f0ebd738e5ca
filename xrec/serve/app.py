"""The Ray Serve application: frontends, which serve HTTP, and model replicas, which write texts.

`xrec.serve.app:build` is the import path for `serve deploy` and KubeRay's RayService; its `args`
are a `ServeConfig`. Running replicas apply a change of `user_config` (`xrec.serve.artifacts`) under
load. A change of `args` starts new replicas.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from weakref import WeakSet

import torch
import yaml
from pydantic import SecretStr
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from xrec.backfill import present
from xrec.backfill.lookup import Explained
from xrec.bulk import newest_entry
from xrec.config import ServeConfig, is_loopback
from xrec.errors import ConfigError, ModelError, XRecError
from xrec.processes import gpus_each
from xrec.serve.api import make_api
from xrec.serve.artifacts import (
    PublishedTexts,
    choice_of,
    chosen,
    models_of,
    repeat,
    settle,
)
from xrec.serve.catalogue import Catalogue, read_catalogue
from xrec.serve.gate import MAX_REQUESTS, RequestGate, request_log
from xrec.serve.live_explainer import MAX_WAITING_PAIRS, LiveExplainer, load_live
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import Event, ModelHandle, NoModel, PairError
from xrec.serve.read_through import ReadThrough
from xrec.storage import fingerprint_of, location_of
from xrec.text.writers import writer_key
from xrec.version import __version__

logger = logging.getLogger("xrec")

APP = "xrec"
FRONTEND, GENERATOR = "Frontend", "Generator"
REFRESH_SECONDS = 5.0
"""Time between checks for other artifacts and for a new version of the backfill."""
WATCH_SECONDS = 2.0
"""Time between checks of the takedowns, which must apply within five seconds, and of the models."""
KEPT_SECONDS = 60.0
"""How long a model replica keeps models after a frontend last asked for them."""

_FILE_HEAD = """# Written by `xrec serve CONFIG --write-deployment FILE`.
# To deploy it, run `serve deploy FILE`, or use it as spec.serveConfigV2 of a RayService.
# Running replicas apply a change of user_config, such as another adapter or backfill.
# Where it is null, the artifact behind the published explanations is used.
# A change of args starts new replicas.
"""


class Frontend:
    """The frontend replica: serves HTTP, and calls `generator` for texts not in the backfill.

    generator: None if no model writes texts. metrics: Ray's by default.
    """

    def __init__(
        self,
        config: ServeConfig,
        generator: DeploymentHandle | None,
        metrics: Metrics | None = None,
    ):
        self._config, self._generator, self._metrics = config, generator, metrics or Metrics()
        self._chosen = config
        self._followed: tuple[ServeConfig, str] | None = None  # the choice and version in use
        self._current: ReadThrough | None = None
        self._next: ReadThrough | None = None  # replaces the current one once all models are loaded
        self._in_use = WeakSet[ReadThrough]()  # by new requests and by requests in flight
        self._checks: list[asyncio.Task[None]] = []
        api, share = make_api(self._read_through), 1 / config.frontends.num_processes
        api.openapi()  # cached; takes 50 ms, during which no client should wait
        self._gate = RequestGate(api, config.keys, self._metrics, share)
        _log_to_replica()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the ASGI application. Serve calls this."""
        return self._gate

    async def drain(self) -> None:
        """Refuse new requests, and wait until none is in flight, or until the deadline."""
        await self._gate.drain(self._config.http.deadline_seconds)

    async def reconfigure(self, choice: Mapping[str, str | None]) -> None:
        """Switch to the artifacts in `choice`. Serve calls this with a new `user_config`.

        The first call waits until they are in use, and raises an error if they cannot be used.
        After later calls, the earlier ones stay in use until the new ones are loaded.
        """
        self._chosen = chosen(self._config, choice)
        if self._current is None:
            await self._follow()
            settle()
            self._checks = [
                asyncio.create_task(repeat(self.refresh, REFRESH_SECONDS)),
                asyncio.create_task(repeat(self._check, WATCH_SECONDS)),
            ]

    async def refresh(self) -> None:
        """Check once for other artifacts; only log it if they cannot be used."""
        before, outcome = self._current, "taken"
        try:
            await self._follow()
        except (XRecError, OSError) as error:
            logger.error("cannot switch to the new artifacts; keeping the earlier ones: %s", error)
            outcome = "refused"
        if outcome == "refused" or self._current is not before:
            self._metrics.swaps.inc(1, {"deployment": "frontend", "outcome": outcome})

    def _read_through(self) -> ReadThrough:
        """Return the read-through for a request that starts now; the request keeps it."""
        assert self._current is not None  # Serve sends requests once `reconfigure` has returned
        return self._current

    async def _follow(self) -> None:
        """Use the chosen artifacts; for those not named, the ones of the newest version.

        They replace the current ones once all model replicas have loaded the models.
        """
        choice = self._chosen
        newest = await asyncio.to_thread(newest_entry, location_of(choice, "explanations"))
        if self._followed == (choice, newest):
            return
        config = await asyncio.to_thread(present, choice)
        models = await asyncio.to_thread(models_of, config)
        key = models, config.artifact("explanations")
        if self._current is not None and self._current.of == key:
            if not await self._current.published.look():
                return
        else:
            if self._next is None or self._next.of != key:
                self._next = await self._opened(config, key)
            is_newest = await self._next.published.look()
            if not is_newest or (self._current and not await self._next.model.is_loaded()):
                return
            self._current = self._next
            self._in_use.add(self._current)
            logger.info("now using the artifacts of %s", key[1])
        self._next, self._followed = None, (choice, newest)

    async def _opened(self, config: ServeConfig, key: tuple[str, str]) -> ReadThrough:
        model: ModelHandle = NoModel()
        if self._generator is not None:
            model = ModelHandle(self._generator, key[0], choice_of(config))
        contents = await asyncio.to_thread(read_contents, config, self._metrics)
        return ReadThrough(*contents, model, self._metrics, config.http.deadline_seconds, key)

    async def _check(self) -> None:
        """Read new takedowns, and ask the model replicas which models they have loaded."""
        takedowns = [current.published.look_at_takedowns() for current in self._in_use]
        await asyncio.gather(self._read_through().model.is_loaded(), *takedowns)


class Generator:
    """The model replica: writes texts with the models that frontends ask for.

    Each call names the `models` to use (`models_of`). New ones are loaded next to the previous
    ones, which are dropped once no frontend asks for them. All share one language model.

    key: of the endpoint, if one writes. metrics: Ray's by default.
    """

    def __init__(
        self, config: ServeConfig, key: SecretStr | None = None, metrics: Metrics | None = None
    ):
        torch.set_num_threads(config.models.cpus)
        self._config, self._key, self._metrics = config, key, metrics or Metrics()
        self.loaded: dict[str, LiveExplainer] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._asked_at: dict[str, float] = {}
        _log_to_replica()

    async def reconfigure(self, choice: Mapping[str, str | None]) -> None:
        """Load the artifacts in `choice`, so that the first request finds them loaded.

        Serve calls this with each `user_config`. Frontends ask for later ones with `has`.
        """
        if not self.loaded:
            config = await asyncio.to_thread(present, chosen(self._config, choice))
            await self._load(await asyncio.to_thread(models_of, config), config)
            settle()

    async def explain(
        self, models: str, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        """See `xrec.serve.model.ModelHandle`."""
        return await self._ready(models).explain(pairs, key)

    async def stream(
        self, models: str, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        """See `xrec.serve.model.ModelHandle`."""
        async with aclosing(self._ready(models).stream(pair, parts, key)) as events:
            async for event in events:
                yield event

    async def has(self, models: str, choice: Mapping[str, str | None]) -> bool:
        """Return whether the models of these artifacts are loaded; if not, start loading them.

        Drop those that no frontend asked for in the last `KEPT_SECONDS`, except the last ones.
        """
        now = self._asked_at[models] = time.monotonic()
        for each in sorted(self.loaded, key=self._asked_at.__getitem__)[:-1]:
            if self._asked_at[each] < now - KEPT_SECONDS and not self.loaded[each].num_pending:
                del self.loaded[each], self._asked_at[each]
        if models not in self.loaded and models not in self._loading:
            config = chosen(self._config, choice)
            self._loading[models] = asyncio.create_task(self._try_to_load(models, config))
        return models in self.loaded

    def check_health(self) -> None:
        """Raise ModelError if an engine has failed; Serve then replaces this replica."""
        for live in self.loaded.values():
            if live.engine.failure is not None:
                raise ModelError(f"the engine failed: {live.engine.failure}", code="engine_failed")

    def _ready(self, models: str) -> LiveExplainer:
        if models not in self.loaded:
            raise ModelError("the models are not loaded yet", code="models_not_loaded")
        self._asked_at[models] = time.monotonic()
        return self.loaded[models]

    async def _load(self, models: str, config: ServeConfig) -> None:
        earlier = next(iter(self.loaded.values()), None)
        live = await asyncio.to_thread(load_live, config, self._metrics, self._key, like=earlier)
        self.loaded[models], self._asked_at[models] = live, time.monotonic()

    async def _try_to_load(self, models: str, config: ServeConfig) -> None:
        outcome = "taken"
        try:
            await self._load(models, config)
        except Exception as error:
            logger.error("cannot load the new artifacts: %s", error, exc_info=error)
            outcome = "refused"
        finally:
            del self._loading[models]
        self._metrics.swaps.inc(1, {"deployment": "generator", "outcome": outcome})


def read_contents(config: ServeConfig, metrics: Metrics) -> tuple[Catalogue, PublishedTexts]:
    """Read the catalog and the published texts; raise what their constructors raise."""
    catalogue = read_catalogue(config)
    return catalogue, PublishedTexts(config, catalogue.fingerprints, metrics)


def _log_to_replica() -> None:
    """Log requests as JSON to standard output, and everything else to standard error.

    Ray Serve's own handlers only write to files in Ray's session folder.
    """
    request_log.propagate = False
    for log, stream, form in (
        (logging.getLogger("xrec"), sys.stderr, "%(asctime)s %(levelname)s %(message)s"),
        (request_log, sys.stdout, "%(message)s"),
    ):
        log.setLevel(logging.INFO)
        if not log.handlers:
            handler = logging.StreamHandler(stream)
            handler.setFormatter(logging.Formatter(form))
            log.addHandler(handler)


def build(config: ServeConfig) -> Any:
    """Return the application for `serve.run`; raise ConfigError if an endpoint's key is not set."""
    models = config.models
    # Serve starts new replicas if the version changes, so it must not depend on the artifacts. The
    # access log of Serve is off, because the paths in it contain user IDs.
    settings = config.model_dump(mode="json", exclude={"artifacts"})
    shared: dict[str, Any] = {
        "version": fingerprint_of([__version__, settings]),
        "user_config": choice_of(config),
        "graceful_shutdown_timeout_s": config.http.deadline_seconds + 5,
        "logging_config": {"enable_access_log": False},
        "_internal": True,  # otherwise Ray warns that `version` is set
    }
    frontend = serve.deployment(serve.ingress()(Frontend)).options(
        name=FRONTEND,
        num_replicas=config.frontends.num_processes,
        ray_actor_options={"num_cpus": config.frontends.cpus},
        max_ongoing_requests=MAX_REQUESTS,
        max_queued_requests=MAX_REQUESTS,
        **shared,
    )
    if config.writer == "sentences":
        return frontend.bind(config, None)
    generator = serve.deployment(Generator).options(
        name=GENERATOR,
        num_replicas=config.num_models,
        ray_actor_options={
            "num_cpus": models.cpus,
            "num_gpus": gpus_each(models.device, config.num_models, config.gpus_per_process),
        },
        # The replica itself limits how many pairs wait. Serve's limit is high, so that requests do
        # not queue in Serve, where they could not be refused.
        max_ongoing_requests=10 * (config.texts_at_once + MAX_WAITING_PAIRS),
        health_check_period_s=2,
        **shared,
    )
    return frontend.bind(config, generator.bind(config, writer_key(config)))


def serve_options(config: ServeConfig) -> dict[str, Any]:
    """Return the settings of Serve's proxies: where they listen, and their TLS files."""
    http = config.http
    options: dict[str, Any] = {"host": http.host, "port": http.port}
    if http.tls is not None:
        options |= {"ssl_certfile": http.tls, "ssl_keyfile": http.tls}
    location = "HeadOnly" if is_loopback(http.host) else "EveryNode"
    return {"proxy_location": location, "http_options": options}


def deployment_yaml(config: ServeConfig) -> str:
    """Return a Serve config file, for `serve deploy` or as `serveConfigV2` of a RayService.

    Raises ConfigError if the config contains storage keys, which would be readable in the file.
    """
    if config.storage.access_key_id is not None:
        raise ConfigError(
            "storage.access_key_id is a secret, and anyone could read it in the file; remove it, "
            "and set AWS_ACCESS_KEY_ID on the cluster",
            code="secret_in_file",
            key="storage.access_key_id",
        )
    secrets = {"access_key_id", "secret_access_key"}
    choice = choice_of(config)
    names = (FRONTEND,) if config.writer == "sentences" else (FRONTEND, GENERATOR)
    application = {
        "name": APP,
        "route_prefix": "/",
        "import_path": "xrec.serve.app:build",
        "args": config.model_dump(mode="json", exclude={"ray": True, "storage": secrets}),
        "deployments": [{"name": name, "user_config": choice} for name in names],
    }
    values = {**serve_options(config), "applications": [application]}
    return _FILE_HEAD + str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
