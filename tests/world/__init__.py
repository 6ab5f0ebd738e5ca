"""The small world that tests share: data, models, and servers.

- town: datasets of a few users and items, generated or given as rows
- shop: files of a user of xrec: reviews, CSV exports, project files
- models: tokenizers, language models, adapters and vectors with random weights, in memory
- workspace: artifacts of a workspace, made of those without training
- program: the command line, in this process or in a new one, and nginx
- here: actors and Ray tasks in the test's own process, and places on a disk and in an object store
- endpoint: a scripted server of the OpenAI API, and a scripted language model
- store: an S3 object store, and a faulty proxy in front of it
- cluster: Ray clusters of several nodes, and killing their processes
"""
