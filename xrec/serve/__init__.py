"""The online endpoint: it answers from a backfill, and generates what the backfill does not hold.

A request passes three rooms. A Ray Serve proxy brings it to a frontend replica, which has the first
two; a model replica is the third.

HTTP            gate, api          key, limits and log line; routes, events and the page
                messages, problems the bodies of requests, answers and errors
                feedback           what became of texts: a table of events, rates
read-through    read_through       the table, else memory, else the model; cuts and limits of time
                artifacts          the newest version of the table; changes of artifacts
                catalogue          users, items and vectors: recommendations, evidence
model           model              calls of a model replica, and what it returns
                live_explainer     the texts of pairs that come one by one

app puts the rooms together: it has both replicas. How to operate the endpoint stands in
docs/serving.md.
"""
