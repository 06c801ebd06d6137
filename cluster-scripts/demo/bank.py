"""A bank whose money must stay, and whose ledger must say what its clients were told.

Each client moves money between accounts and writes a line into the ledger, under its own number and the transfer's, in one transaction.
What was refused in a way that the manual calls retryable is done again; of what may have been done or not (the connection broke at
the commit), the ledger is asked, as an application would. In the end each transfer that was acknowledged is in the ledger once, and no other.
"""

import random
import threading
import time

from demo.client import Connection, Failed, Lost

ACCOUNTS = 200
BALANCE = 1000
# Serialization failure, deadlock, the node stops, the node does not serve yet.
RETRYABLE = {"40001", "40P01", "57P01", "57P03"}
# The outcome of a commit is unknown.
UNCLEAR = {"40003", "08007"}
PAUSE = 0.02
ATTEMPTS_MAX = 200


class Bank:
    def __init__(self, ports, clients, seed=1):
        self.ports = ports
        self.stop = threading.Event()
        self.clients = [Client(self, number, random.Random(seed * 1000 + number)) for number in range(clients)]

    def setup(self):
        connection = Connection(self.ports[0], timeout=60)
        connection.query("CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))")
        connection.query(f"INSERT INTO accounts SELECT g, {BALANCE} FROM generate_series(0, {ACCOUNTS - 1}) AS g")
        connection.query(
            "CREATE TABLE ledger (client int, transfer int, source int NOT NULL REFERENCES accounts, target int NOT NULL,"
            " amount int NOT NULL, PRIMARY KEY (client, transfer))"
        )
        connection.close()

    def begin(self):
        for client in self.clients:
            client.start()

    def end(self):
        self.stop.set()
        for client in self.clients:
            client.join(60)

    def between(self, begin, end):
        """What clients saw in this time: transfers, failures, retries, and the pauses of each between two of its transfers, in seconds,
        with when they began."""
        done = retried = 0
        gaps, failures = [], []
        for client in self.clients:
            acknowledged = list(client.acknowledged)
            done += sum(begin <= at < end for at in acknowledged)
            retried += sum(begin <= at < end for at in list(client.retried))
            failures += [text for at, text in list(client.failed) if begin <= at < end]
            edges = acknowledged + ([end] if not acknowledged or acknowledged[-1] < end else [])
            for before, after in zip(edges, edges[1:]):
                if after > begin and before < end:
                    gaps.append((after - before, before))
        return done, failures, retried, gaps

    def check(self):
        """What is wrong with the money and the ledger."""
        connection, troubles = Connection(self.ports[0], timeout=60), []
        total = int(connection.query("SELECT sum(balance) FROM accounts")[0][0])
        if total != ACCOUNTS * BALANCE:
            troubles.append(f"the bank has {total}, and had {ACCOUNTS * BALANCE}")
        moved = connection.query(
            "SELECT count(*) FROM accounts a WHERE balance <> "
            f"{BALANCE} + COALESCE((SELECT sum(amount) FROM ledger WHERE target = a.id), 0)"
            " - COALESCE((SELECT sum(amount) FROM ledger WHERE source = a.id), 0)"
        )
        if moved[0][0] != "0":
            troubles.append(f"{moved[0][0]} accounts have not what the ledger says")
        there = {(int(client), int(number)) for client, number in connection.query("SELECT client, transfer FROM ledger")}
        told = {(client.number, number) for client in self.clients for number in client.told}
        if told - there:
            troubles.append(f"{len(told - there)} acknowledged transfers are lost: {sorted(told - there)[:5]}")
        if there - told:
            troubles.append(f"{len(there - told)} transfers are there that nobody was told of: {sorted(there - told)[:5]}")
        connection.close()
        return troubles, len(told)


class Client(threading.Thread):
    def __init__(self, bank, number, chance):
        super().__init__(daemon=True)
        self.bank, self.number, self.chance = bank, number, chance
        self.home = number
        self.connection = None
        self.acknowledged, self.retried, self.failed, self.told = [], [], [], []

    def run(self):
        number = 0
        while not self.bank.stop.is_set():
            source, target = self.chance.sample(range(ACCOUNTS), 2)
            if self.transfer(number, source, target, self.chance.randint(1, 9)):
                self.acknowledged.append(time.time())
                self.told.append(number)
            number += 1
            time.sleep(PAUSE)

    def transfer(self, number, source, target, amount):
        """Whether it was done. False: it was refused for good."""
        unclear = False
        for _ in range(ATTEMPTS_MAX):
            committing = False
            try:
                self.connect()
                if unclear:
                    there = f"SELECT 1 FROM ledger WHERE client = {self.number} AND transfer = {number}"
                    if self.connection.query(there):
                        return True
                    unclear = False
                self.connection.query(
                    f"BEGIN; UPDATE accounts SET balance = balance - {amount} WHERE id = {source};"
                    f" UPDATE accounts SET balance = balance + {amount} WHERE id = {target};"
                    f" INSERT INTO ledger VALUES ({self.number}, {number}, {source}, {target}, {amount})"
                )
                committing = True
                self.connection.query("COMMIT")
                return True
            except Lost:
                unclear |= committing
                self.leave()
            except Failed as failed:
                if failed.code in UNCLEAR:
                    unclear = True
                elif failed.code == "23514":
                    # The account has not enough.
                    self.rollback()
                    amount = 0
                    continue
                elif failed.code not in RETRYABLE:
                    self.failed.append((time.time(), str(failed)))
                    self.leave()
                    return False
                if failed.code in ("57P01", "57P03"):
                    unclear |= committing
                    self.leave()
                else:
                    self.rollback()
            self.retried.append(time.time())
            if self.bank.stop.is_set() and not unclear:
                return False
            time.sleep(PAUSE * self.chance.random())
        self.failed.append((time.time(), f"not done after {ATTEMPTS_MAX} attempts"))
        return False

    def rollback(self):
        try:
            self.connection.query("ROLLBACK")
        except (Lost, Failed):
            self.leave()

    def connect(self):
        if self.connection is None:
            self.connection = Connection(self.bank.ports[self.home % len(self.bank.ports)], timeout=15)

    def leave(self):
        """The next node, as drivers with several hosts do."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None
        self.home += 1
