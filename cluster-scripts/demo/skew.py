"""A load that is not even: nine of ten requests go to one shard of six. It is split and its parts are led from all nodes."""

import tempfile
import time
from pathlib import Path

from demo import plot
from demo.bench import Bench
from demo.client import Connection
from demo.cluster import say

ROWS = 6000
EVEN_SECONDS, SKEWED_SECONDS = 25, 120
CLIENTS = 4
# Requests per second and node, if the machine can: the figures are to show who serves them, not how many there could be.
RATE = 150
SHARD_LIMIT = 200
SPREAD_WITHIN = 60
# No node serves more than this part of all requests when the load is spread.
SPREAD_MAX = 0.45

EVEN = f"\\set id random(1, {ROWS})\nSELECT v FROM skewed WHERE id = :id;\n"
SKEWED = f"\\set dice random(1, 10)\n\\set hot random(1, {ROWS // 6})\n\\set any random(1, {ROWS})\n" + (
    "\\set id CASE WHEN :dice > 1 THEN :hot ELSE :any END\nSELECT v FROM skewed WHERE id = :id;\n"
)


def run(cluster, target):
    """Whether it was spread in time."""
    cluster.script("up", "--nodes", 3)
    connection = Connection(cluster.sql_port(1), timeout=60)
    connection.query("CREATE TABLE skewed (id int PRIMARY KEY, v int)")
    connection.query(f"INSERT INTO skewed SELECT g, g FROM generate_series(1, {ROWS}) AS g")
    points = ", ".join(f"({ROWS // 6 * part + 1})" for part in range(6))
    connection.query(f"ALTER TABLE skewed SPLIT AT VALUES {points}")
    cluster.admin("settings", "set", "shard_max_requests_per_second", SHARD_LIMIT)
    cluster.admin("rebalance")
    samples, begin = [], time.time()
    with tempfile.TemporaryDirectory() as folder:
        even, skewed = Path(folder) / "even.sql", Path(folder) / "skewed.sql"
        even.write_text(EVEN)
        skewed.write_text(SKEWED)
        at_work(cluster, even, EVEN_SECONDS, begin, samples)
        turned = time.time() - begin
        at_work(cluster, skewed, SKEWED_SECONDS, begin, samples)
    spread = next((at - turned for at in spread_times(samples, turned)), None)
    Path(target).write_text(plot.draw(samples, turned, spread))
    say(f"{samples[-1]['shards']} shards in the end; the plot is {target}")
    if spread is None:
        say(f"TROUBLE: after {SKEWED_SECONDS} s one node still serves more than {SPREAD_MAX:.0%} of the requests")
        return False
    say(f"no node serves more than {SPREAD_MAX:.0%} of the requests since {spread:.0f} s after the load had become skewed")
    return spread <= SPREAD_WITHIN


def at_work(cluster, script, seconds, begin, samples):
    benches = [Bench(cluster.sql_port(node), CLIENTS, RATE, str(script)) for node in (1, 2, 3)]
    until = time.time() + seconds
    while time.time() < until:
        time.sleep(1)
        shards = cluster.json("shards")
        load = {node["id"]: 0 for node in cluster.json("nodes")}
        for shard in shards:
            if shard["leader"]:
                load[shard["leader"]] += shard["reads_per_second"] + shard["writes_per_second"]
        tps = sum(bench.seconds[-1][1] for bench in benches if bench.seconds)
        own = sum(shard["table"] is not None for shard in shards)
        samples.append({"at": time.time() - begin, "shards": own, "load": load, "tps": tps})
        say(f"{samples[-1]['at']:5.0f} s  {own:2} shards  {tps:5.0f} tps  requests/s: " + "  ".join(f"n{n} {r:4}" for n, r in sorted(load.items())))
    for bench in benches:
        bench.stop()


def spread_times(samples, turned):
    """When it was spread, and stayed so for five samples."""
    def is_spread(sample):
        total = sum(sample["load"].values())
        return total > 0 and max(sample["load"].values()) <= SPREAD_MAX * total

    for place in range(len(samples) - 4):
        if samples[place]["at"] > turned + 3 and all(map(is_spread, samples[place : place + 5])):
            yield samples[place]["at"]
