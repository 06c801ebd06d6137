"""pgbench at work, told second by second."""

import re
import subprocess
import threading
import time

LINE = re.compile(r"progress: [\d.]+ s, ([\d.]+) tps, .*?(?:, (\d+) failed)?(?:, (\d+) retried, (\d+) retries)?$")


class Bench:
    def __init__(self, port, clients=2, rate=0, script=None):
        command = ["pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "root", "-c", str(clients), "-j", str(clients)]
        command += ["-T", "100000", "-P", "1", "--max-tries=100"] + (["-R", str(rate)] if rate else [])
        command += (["-f", script] if script else []) + ["postgres"]
        self.seconds, self.troubles, self.stopping = [], [], False
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stderr:
            found = LINE.search(line.strip())
            if found:
                tps, failed, retried, _ = found.groups()
                self.seconds.append((time.time(), float(tps), int(failed or 0), int(retried or 0)))
            elif "error" in line or "aborted" in line:
                self.troubles.append((time.time(), line.strip()))

    def stop(self):
        self.stopping = True
        self.process.terminate()
        self.process.wait()


def between(benches, begin, end):
    """Transactions per second, failures, retries in this time. A line tells of the second before it; of one that lies half
    in this time, half is counted."""
    done = failed = retried = 0
    for bench in benches:
        for at, tps, failures, retries in list(bench.seconds):
            share = max(0.0, min(at, end) - max(at - 1, begin))
            done += share * tps
            # Those are whole, and belong to the second in which they were told.
            if begin <= at < end:
                failed, retried = failed + failures, retried + retries
    troubles = [text for bench in benches for at, text in list(bench.troubles) if begin <= at < end]
    return done / max(end - begin, 1), failed, troubles, retried
