"""The online endpoint: the backfill's explanations at once, all others generated as they are asked for.

Ray Serve's proxy -> Frontend (HTTP, dataset, vectors, caches) -> Generator (the language model), replicas of each.

frontend, generator, app    the two deployments and how they are put together
gate, keys, problems        what a request must pass; how errors are told (RFC 9457)
api, messages, page         routes, their OpenAPI, the page at /
service, read_through       what is answered: backfill first, then what was kept, then the model
catalogue, state            users, items, vectors; what is read from artifacts, and watched for change
live_explainer, new_users   the model's side: texts as they come; vectors of users known by their history alone

Operating it:

- `user_config` of both deployments (xrec.serve.choice) names the artifacts. It is changed in place, by SIGHUP to `xrec serve` or by
  `serve deploy` of a changed file: replicas load the new ones beside the old, which takes twice the model's memory meanwhile,
  and switch. Each answer has the fingerprint of the model that wrote it.
- A frontend that dies makes Serve's proxy say 500, unless xrec.serve.proxy stands in it: the nodes need
  RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=xrec.serve.proxy:middlewares in their environment. `xrec serve` sets it for a cluster of its own.
- Limits, rates and caches are each frontend's own. `/metrics` is of the frontend that answers; Ray exports those of all replicas.
- Keys over plain HTTP can be read on the way: TLS in Serve's proxy (http.tls_certificate), or a proxy in front, which must pass on
  the Authorization header. Without keys only loopback clients that ask for a loopback name are answered.
"""
