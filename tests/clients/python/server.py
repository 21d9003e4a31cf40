"""The real server as a child process, for tests: on free loopback ports, in a directory of its own."""

import os
import socket
import subprocess
import tempfile
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Started by `with`; `host` and `port` are where PostgreSQL's clients connect."""

    host = "127.0.0.1"
    user = "postgres"
    database = "postgres"

    def __enter__(self):
        binary = os.environ.get("SPRINGHEAD_BIN")
        if not binary:
            raise SystemExit("SPRINGHEAD_BIN must name the server; run `cargo xtask test`")
        self.directory = tempfile.TemporaryDirectory(prefix="springhead-clients-")
        self.port, http = free_port(), free_port()
        self.process = subprocess.Popen(
            [
                binary,
                "serve",
                "--data-dir",
                os.path.join(self.directory.name, "data"),
                "--pg",
                f"127.0.0.1:{self.port}",
                "--http",
                f"127.0.0.1:{http}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=5).read()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the server did not become ready")
                time.sleep(0.02)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.directory.cleanup()

    def url(self, scheme):
        return f"{scheme}://{self.user}@{self.host}:{self.port}/{self.database}"
