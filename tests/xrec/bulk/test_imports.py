"""What `import xrec.bulk` does not import."""

import subprocess
import sys


def test_status_and_check_import_no_ray() -> None:
    code = "import sys, xrec.bulk; print('ray' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_pool_of_actors_is_imported_when_it_is_asked_for() -> None:
    code = "from xrec.bulk import ActorPool; print(ActorPool.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "xrec.bulk.pool\n"
