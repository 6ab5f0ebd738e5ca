"""The online endpoint: it serves texts from a backfill and generates those that are missing.

A request passes three stages. Ray Serve's proxy sends it to a frontend replica, which runs the
first two stages. A model replica runs the third.

HTTP            gate, api          keys, limits, log lines; routes with scopes, streams, the page
                messages, problems bodies of requests, answers and errors
read-through    read_through       the table, then memory, then the model; takedowns, deadlines
                artifacts          the newest version of the table; changes of artifacts
                catalogue          users, items and vectors: recommendations, evidence
model           model              calls to a model replica, and their results
                live_explainer     explains pairs as they arrive

app defines both replicas. docs/serving.md describes operation.
"""
