"""Starts the server and runs the JDBC tests against it: `run_jdbc.py JAVA DRIVER SOURCE`."""

import subprocess
import sys

from server import Server

with Server() as server:
    java, driver, source = sys.argv[1:]
    url = f"jdbc:postgresql://{server.host}:{server.port}/{server.database}"
    arguments = [url, server.user, server.password, server.ca]
    sys.exit(subprocess.run([java, "-cp", driver, source, *arguments]).returncode)
