"""The online endpoint: it answers from a backfill, and generates what the backfill does not hold.

A request passes three stages. Ray Serve's proxy brings it to a frontend replica, which has the
first two; a model replica is the third.

HTTP            gate, api          key, limits and log line; routes with their scopes, streams, page
                messages, problems bodies of requests, answers and errors
read-through    read_through       the table, else memory, else the model; takedowns, deadlines
                artifacts          the newest version of the table; changes of artifacts
                catalogue          users, items and vectors: recommendations, evidence
model           model              calls of a model replica, and what it returns
                live_explainer     the texts of pairs that come one by one

app puts the stages together: it has both replicas. docs/serving.md describes operation.
"""
