"""nginx with the config of infra/nginx, in front of a port of 127.0.0.1."""

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "infra" / "nginx" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_TEMP_PATHS = "".join(
    f"{kind}_temp_path temp;\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def config_in(folder: Path, **values: str) -> str:
    """Return the config with logs and files in `folder`, and other values of these directives."""
    text = CONFIG.read_text().replace("/var/log/nginx", str(folder))
    text = text.replace("http {", f"http {{\n{_TEMP_PATHS}", 1)
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^(\s+{name}) .*?;", rf"\1 {value};", text)
        assert count, f"no {name} in {CONFIG}"
    return text


@contextmanager
def nginx_before(upstream: int, **values: str) -> Iterator[str]:
    """Run nginx in front of the port `upstream`; yield its URL. values: of other directives."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as free:
        folder, port = Path(name), free.getsockname()[1]
        folder.chmod(0o755)  # workers are another user's
        text = config_in(folder, listen=f"127.0.0.1:{port}", **values)
        text = re.sub(r"(?m)^\s+ssl_.*\n", "", text)
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
        (folder / "nginx.conf").write_text(text)
        free.close()
        assert NGINX is not None
        command = [NGINX, "-p", name, "-e", "stderr", "-c", str(folder / "nginx.conf")]
        process = subprocess.Popen([*command, "-g", f"daemon off; pid {name}/pid;"])
        try:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            assert process.poll() is None, "nginx ended"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
