"""Score explanations against references and write the report.

    python jobs/evaluate.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/evaluate.py project.yaml

The same as `xrec evaluate`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("evaluate")
