"""The small world that all tests share: its data, its models, and the servers around it.

- town: datasets of a few users and items, generated or given as rows
- shop: files of a user of xrec: reviews, CSV exports, project files
- models: tokenizers, language models, adapters and vectors with random weights, in memory
- workspace: those as the artifacts of a workspace, without any training
- program: the command line, in this process or in one of its own
- here: actors and Ray tasks in the test's own process, and places on a disk and in an object store
- endpoint: an HTTP server that speaks the OpenAI API, and a language model that a test scripts
- store: an S3 object store, and a proxy before it that fails
- cluster: Ray clusters of several nodes, and killing their processes
"""
