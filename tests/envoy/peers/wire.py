"""What server and client agree on: ports, addresses as text, and bytes whose hash both sides know."""

import hashlib
import json
import random
import socket

HTTP, HTTP2, GRPC, WEBSOCKET = 8001, 8002, 8003, 8004
DNS = 53
ECHO, BANNER, BULK, RESETS, STEADY, TLS = 9001, 9002, 9003, 9004, 9005, 9443

# The header that says which talk a request belongs to; Envoy writes it into its access log.
TALK = "x-talk"
NAME = "shop.example"
# What the proxy's own resolver knows.
RESOLVED, RESOLVED_TO = "mesh.example", "192.0.2.77"

BLOCK = random.Random(7).randbytes(1 << 20)


def text(address):
    """HOST:PORT as Rust and Envoy write it; a v4 address of a v6 socket is a v4 address."""
    host, port = address[0].split("%")[0], address[1]
    if host.startswith("::ffff:"):
        host = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def blocks(megabytes):
    """So many blocks of a mebibyte, no two of them the same."""
    for number in range(megabytes):
        yield number.to_bytes(8, "big") + BLOCK[8:]


def digest(megabytes):
    """The hash of all of them."""
    return digest_of(blocks(megabytes))


def digest_of(parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def received(connection):
    """What comes until the other side has sent all of it."""
    while part := connection.recv(1 << 18):
        yield part


def read_line(connection):
    """One line, not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise EOFError(f"closed after {line!r}")
        line += byte
    return line.decode().strip()


def read_json(connection):
    return json.loads(read_line(connection))


def write_json(connection, value):
    connection.sendall(json.dumps(value).encode() + b"\n")


def reset(connection):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
