"""The real server as a child process, for tests: on free loopback ports, in a directory of its own.

By default it has users and TLS, and `user` logs in with a password; `Server(secure=False)` is what a
first start is: no users, no TLS, whoever comes is let in.
"""

import base64
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request


ROOT = base64.b64encode(b"root:rootpass").decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Started by `with`; the attributes are what PostgreSQL's clients connect with."""

    database = "postgres"

    def __init__(self, secure=True):
        self.secure = secure
        # The certificate is for the name alone, so that only who compares names passes.
        self.host = "localhost" if secure else "127.0.0.1"
        self.user = "app" if secure else "postgres"
        # Every driver has to normalise and to escape it.
        self.password = "pass word: é/@'%" if secure else None

    def __enter__(self):
        binary = os.environ.get("SPRINGHEAD_BIN")
        if not binary:
            raise SystemExit("SPRINGHEAD_BIN must name the server; run `cargo xtask test`")
        self.directory = tempfile.TemporaryDirectory(prefix="springhead-clients-")
        place = pathlib.Path(self.directory.name)
        self.port, http = free_port(), free_port()
        self.origin = f"http://127.0.0.1:{http}"
        settings = {"data_dir": place / "data", "pg": f"127.0.0.1:{self.port}", "http": f"127.0.0.1:{http}"}
        if self.secure:
            certificates = pathlib.Path(__file__).parent.parent / "certificates.sh"
            subprocess.run(["sh", certificates, place], check=True)
            self.ca = str(place / "ca.crt")
            settings |= {"tls_certificate": place / "server.crt", "tls_key": place / "server.key"}
            settings["tls_required"] = "on"
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self.process = subprocess.Popen(
            [binary, "serve", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self.wait()
            if self.secure:
                self.make_users()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.directory.cleanup()

    def wait(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.origin}/readyz", timeout=5).read()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the server did not become ready")
                time.sleep(0.02)

    def make_users(self):
        """An administrator, who shuts the door, and an application's user that may make tables."""
        password = self.password.replace("'", "''")
        self.administer("CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'", self.origin)
        https = self.origin.replace("http://127.0.0.1", "https://localhost")
        self.administer(f"CREATE USER {self.user} PASSWORD '{password}'", https)
        self.administer(f"GRANT CREATE ON SCHEMA public TO {self.user}", https)

    def administer(self, sql, origin):
        headers = {"content-type": "application/json", "authorization": "Basic " + ROOT}
        request = urllib.request.Request(f"{origin}/v1/sql", json.dumps({"sql": sql}).encode(), headers)
        context = ssl.create_default_context(cafile=self.ca)
        urllib.request.urlopen(request, timeout=30, context=context).read()

    def options(self):
        """What libpq's clients are given beside the tests' own: keyword and value."""
        options = {"host": self.host, "port": self.port, "user": self.user, "dbname": self.database}
        if self.secure:
            options |= {"password": self.password, "sslmode": "verify-full", "sslrootcert": self.ca}
        return options

    def url(self, scheme):
        quote = lambda text: urllib.parse.quote(text, safe="")
        if not self.secure:
            return f"{scheme}://{self.user}@{self.host}:{self.port}/{self.database}"
        query = urllib.parse.urlencode({"sslmode": "verify-full", "sslrootcert": self.ca})
        return f"{scheme}://{self.user}:{quote(self.password)}@{self.host}:{self.port}/{self.database}?{query}"
