"""The Ray Serve application: frontends, which speak HTTP, and model replicas, which generate.

`xrec.serve.app:build` is the import path for `serve deploy` and KubeRay's RayService; its `args`
are a `ServeConfig`. A change of `user_config` (`xrec.serve.choice`) is made under load, in the
running replicas. A change of `args` starts new replicas.
"""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from xrec.bulk.ray_actors import gpus_each
from xrec.config.serve import ServeConfig
from xrec.serve.choice import Choice, choice_of
from xrec.serve.frontend import Frontend
from xrec.serve.generator import Generator
from xrec.storage import fingerprint_of
from xrec.version import __version__

APP = "xrec"
FRONTEND, GENERATOR = "Frontend", "Generator"

# Serve's own log lines have the path of each request, and so the ids of users.
_QUIET = {"enable_access_log": False}


def build(config: ServeConfig) -> Any:
    """Return the application of `config`, as `serve.run` takes it."""
    choice, version = choice_of(config), _version(config)
    limit = config.http.max_concurrent_requests
    generator = serve.deployment(Generator).options(
        name=GENERATOR,
        version=version,
        user_config=choice,
        num_replicas=config.models.num_replicas,
        ray_actor_options={
            "num_cpus": config.models.cpus_per_replica,
            "num_gpus": gpus_each(
                config.models.device,
                config.models.num_replicas,
                config.engine.tensor_parallel_size,
            ),
        },
        # The engine limits how many pairs wait. This number is so high that requests do not queue
        # in Serve, where they could not be refused.
        max_ongoing_requests=10 * (config.engine.max_rows + config.models.max_waiting_pairs),
        health_check_period_s=2,
        graceful_shutdown_timeout_s=config.http.deadline_seconds + 5,
        logging_config=_QUIET,
        _internal=True,
    )
    frontend = serve.deployment(serve.ingress()(Frontend)).options(
        name=FRONTEND,
        version=version,
        user_config=choice,
        num_replicas=config.frontends.num_replicas,
        ray_actor_options={"num_cpus": config.frontends.cpus_per_replica},
        max_ongoing_requests=2 * limit + 64,  # above our own limit, which refuses with 429
        graceful_shutdown_timeout_s=config.http.deadline_seconds + 5,
        logging_config=_QUIET,
        _internal=True,
    )
    handle: DeploymentHandle = generator.bind(config)
    return frontend.bind(config, handle)


def _version(config: ServeConfig) -> str:
    """Return the version of both deployments.

    Serve starts new replicas if it differs, so it leaves out what can change in running replicas.
    """
    return fingerprint_of(
        [__version__, config.model_dump(mode="json", exclude=set(Choice.model_fields))]
    )
