"""Turn reviews into profiles, explanations, and aspects.

    python jobs/annotate.py project.yaml [section.key=value ...]
    ray job submit --working-dir . -- python jobs/annotate.py project.yaml

The same as `xrec annotate`, with its arguments and exit codes.
"""

from xrec.cli.main import main

if __name__ == "__main__":
    main("annotate")
