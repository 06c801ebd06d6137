"""A cluster on this machine, through `cluster-scripts/cluster` and `flotilla admin`, as an operator has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent


class Trouble(Exception):
    """A command has failed."""


class Cluster:
    def __init__(self, folder, base):
        self.folder, self.base = folder, base
        self.binary = os.environ.get("FLOTILLA_BIN") or str(SCRIPTS.parent / "target/release/flotilla")

    def script(self, *arguments):
        return self.run([str(SCRIPTS / "cluster"), *map(str, arguments), "--dir", self.folder, "--base-port", str(self.base)])

    def admin(self, *arguments, at=1, check=True):
        return self.run([self.binary, "admin", "--host", f"127.0.0.1:{self.base + 20 + at}", *map(str, arguments)], check)

    def json(self, *arguments, at=1):
        return json.loads(self.admin("--json", *arguments, at=at))

    def run(self, command, check=True):
        done = subprocess.run(command, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise Trouble(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def sql_port(self, node):
        return self.base + node

    def http_port(self, node):
        return self.base + 40 + node

    def address(self, node):
        """What operators may call a node."""
        return f"127.0.0.1:{self.sql_port(node)}"

    def settled(self, at=1, seconds=180):
        self.admin("status", "--wait", seconds, at=at)

    def pgbench(self, *arguments, node=1):
        return self.run(["pgbench", "-h", "127.0.0.1", "-p", str(self.sql_port(node)), "-U", "root", *arguments, "postgres"])


def say(text):
    print(text, flush=True)
    sys.stdout.flush()
