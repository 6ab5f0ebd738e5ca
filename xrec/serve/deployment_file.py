"""The endpoint as a Serve config file, for `serve deploy` or as `serveConfigV2` of a RayService."""

from typing import Any

import yaml

from xrec.config.serve import ServeConfig
from xrec.errors import ConfigError
from xrec.serve.app import APP, FRONTEND, GENERATOR
from xrec.serve.choice import choice_of

_HEAD = """# Written by `xrec serve CONFIG --write-deployment FILE`.
# To deploy it, run `serve deploy FILE`, or put it into a RayService as spec.serveConfigV2.
# A change of user_config (another adapter or backfill) is made in the running replicas.
# A change of args starts new replicas.
"""


def deployment_yaml(config: ServeConfig) -> str:
    """Return the content of the file.

    Raises ConfigError if the config holds storage keys, because the file would show them.
    """
    if config.storage.access_key_id is not None:
        raise ConfigError(
            "storage.access_key_id is a secret and would stand in the file; leave it out, "
            "and give the cluster AWS_ACCESS_KEY_ID"
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
    """Return Serve's settings of its proxies: where they listen, and their TLS files."""
    http = config.http
    options: dict[str, Any] = {"host": http.host, "port": http.port}
    if http.tls_certificate is not None:
        options |= {"ssl_certfile": http.tls_certificate, "ssl_keyfile": http.tls_key}
    return {
        "proxy_location": "HeadOnly" if http.is_loopback else "EveryNode",
        "http_options": options,
    }
