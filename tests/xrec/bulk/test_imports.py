"""What `import xrec.bulk` does not import."""

import subprocess
import sys


def test_ray_is_imported_only_with_the_pool_of_actors() -> None:
    """Status and check are commands of seconds, and Ray takes some to import."""
    code = (
        "import sys, xrec.bulk; print('ray' in sys.modules, 'torch' in sys.modules);"
        "from xrec.bulk import RayPool; print(RayPool.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\nxrec.bulk.pool\n"
