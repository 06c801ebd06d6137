"""A PostgreSQL client of a page: the simple query protocol, so that nothing has to be installed."""

import socket
import struct


class Failed(Exception):
    """The server has refused a statement."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Lost(Exception):
    """The connection is gone, or there is none to be had."""


class Connection:
    def __init__(self, port, timeout=10.0, options=""):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pairs = {"user": "root", "database": "postgres", "application_name": "demo", "options": options}
            body = b"".join(f"{name}\0{value}\0".encode() for name, value in pairs.items() if value) + b"\0"
            self.socket.sendall(struct.pack("!II", len(body) + 8, 196608) + body)
        except OSError as error:
            raise Lost(str(error)) from error
        self.buffer = b""
        self.rows()

    def query(self, sql):
        """The rows of the last statement; each value as text, or None."""
        body = sql.encode() + b"\0"
        try:
            self.socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
        except OSError as error:
            raise Lost(str(error)) from error
        return self.rows()

    def rows(self):
        rows, failure = [], None
        while True:
            kind, body = self.message()
            if kind == b"D":
                rows.append(values(body))
            elif kind == b"T":
                rows = []
            elif kind == b"E":
                fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
                failure = Failed(fields.get(b"C", "?"), fields.get(b"M", "?"))
                # After a fatal one nothing follows.
                if fields.get(b"S") == "FATAL":
                    raise failure
            elif kind == b"Z":
                if failure:
                    raise failure
                return rows

    def message(self):
        header = self.exactly(5)
        return header[:1], self.exactly(struct.unpack("!I", header[1:])[0] - 4)

    def exactly(self, size):
        while len(self.buffer) < size:
            try:
                more = self.socket.recv(65536)
            except OSError as error:
                raise Lost(str(error)) from error
            if not more:
                raise Lost("the server has closed the connection")
            self.buffer += more
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def close(self):
        self.socket.close()


def values(body):
    (count,), at, row = struct.unpack_from("!H", body), 2, []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        row.append(None if size < 0 else body[at : at + size].decode())
        at += max(size, 0)
    return row
