"""Histograms of the nodes' /metrics, as Prometheus has them: for each upper bound, how many lie at or below it."""

import re
import urllib.request

# The scripts number nodes from 1; a demo has a few.
NODES_MAX = 9
INFINITE = float("inf")


class Histogram:
    """Of all nodes that answer, together."""

    def __init__(self, counts):
        self.counts = counts

    @classmethod
    def read(cls, cluster, name):
        line = re.compile(rf'^{name}_bucket\{{(?:.*,)?le="([^"]+)"\}} (\d+)$', re.MULTILINE)
        counts = {}
        for node in range(1, NODES_MAX + 1):
            for bound, count in line.findall(text_of(cluster.http_port(node))):
                bound = INFINITE if bound == "+Inf" else float(bound)
                counts[bound] = counts.get(bound, 0) + int(count)
        return cls(counts)

    def since(self, before):
        return Histogram({bound: count - before.counts.get(bound, 0) for bound, count in self.counts.items()})

    def count(self):
        return max(self.counts.values(), default=0)

    def quantile(self, part):
        """Within its bucket, values are taken to be spread evenly. In the last one, which has no end, it is the bucket's begin."""
        wanted, lower, below = part * self.count(), 0.0, 0
        for bound, count in sorted(self.counts.items()):
            if count >= wanted and count > below:
                return lower if bound == INFINITE else lower + (bound - lower) * (wanted - below) / (count - below)
            lower, below = bound, count
        return 0.0

    def tell(self):
        if self.count() == 0:
            return "nothing was measured"
        most = next(bound for bound, count in sorted(self.counts.items()) if count == self.count())
        p50, p99 = (f"{self.quantile(part) * 1000:.0f}" for part in (0.5, 0.99))
        most = "10000 and more" if most == INFINITE else f"{most * 1000:.0f}"
        return f"p50 {p50} ms, p99 {p99} ms, all within {most} ms ({self.count()} measured)"


def text_of(port):
    """What the node says; nothing, if it does not run."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""
