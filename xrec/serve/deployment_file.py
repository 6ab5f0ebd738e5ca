"""The endpoint as a Serve config file: what `serve deploy` takes, and what stands in a RayService as `serveConfigV2`."""

from typing import Any

import yaml

from xrec.config.serve import ServeConfig
from xrec.errors import ConfigError
from xrec.serve.app import APP, FRONTEND, GENERATOR
from xrec.serve.choice import choice_of

_HEAD = """# Written by `xrec serve CONFIG --write-deployment FILE`. To deploy: serve deploy FILE, or as spec.serveConfigV2 of a RayService.
# user_config is changed in place, under load (another adapter, another backfill); a change of args starts the replicas anew.
"""


def deployment_yaml(config: ServeConfig) -> str:
    """The file's content. Raises ConfigError for a config that holds secrets: they would stand in it."""
    if config.storage.access_key_id is not None:
        raise ConfigError(
            "storage.access_key_id is a secret and would stand in the file; leave it out, and give the cluster AWS_ACCESS_KEY_ID"
        )
    choice = choice_of(config)
    application = {
        "name": APP,
        "route_prefix": "/",
        "import_path": "xrec.serve.app:build",
        "args": config.model_dump(
            mode="json", exclude={"ray": True, "storage": {"access_key_id", "secret_access_key"}}
        ),
        "deployments": [{"name": name, "user_config": choice} for name in (FRONTEND, GENERATOR)],
    }
    return _HEAD + str(
        yaml.safe_dump(
            {**serve_options(config), "applications": [application]},
            sort_keys=False,
            allow_unicode=True,
        )
    )


def serve_options(config: ServeConfig) -> dict[str, Any]:
    """Where Serve's proxies listen."""
    http = config.http
    options: dict[str, Any] = {"host": http.host, "port": http.port}
    if http.tls_certificate is not None:
        options |= {"ssl_certfile": http.tls_certificate, "ssl_keyfile": http.tls_key}
    return {
        "proxy_location": "HeadOnly" if http.is_loopback else "EveryNode",
        "http_options": options,
    }
