"""The online endpoint: it answers from a backfill, and generates what the backfill does not hold.

A request goes through Ray Serve's proxy to a replica of Frontend (HTTP, dataset, vectors, caches),
and from there, if a text must be generated, to a replica of Generator (the language model).

frontend, generator, app    the two deployments, and the application that is made of them
gate, keys, problems        what is checked before a request is answered; the form of errors
api, messages, page         routes, their OpenAPI description, the page at /
service, read_through       where answers come from: the backfill, then memory, then the model
catalogue, state            users, items and vectors; reading artifacts, and watching the backfill
live_explainer, new_users   generation on request; vectors of users that only have a history

How to operate it stands in docs/serving.md.
"""
