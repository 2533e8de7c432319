"""Steady traffic: steady.py ADDRESS..., one new connection after the other to each, until the input ends.

On a line of input it says how they came out so far: `{"came": {OUTCOME: COUNT}, "seen": {ADDRESS: COUNT}, "kept": {...}}`. A
connection that worked is `ok`, any other the step that failed and how; an address is what the server saw. One more connection to
each is kept and used now and then: how many words it has carried, and how it ended.
"""

import collections
import json
import socket
import sys
import threading

import wire

hosts = sys.argv[1:]
PATIENCE = 10
PAUSE = 0.004

came, seen = collections.Counter(), collections.Counter()
kept = collections.Counter()
over = threading.Event()


def greeted(connection):
    """Whom the server saw; both directions are used."""
    seen[wire.read_json(connection)["seen"].rpartition(":")[0]] += 1
    connection.sendall(b"word\n")
    wire.read_json(connection)


def one(host):
    step = "connect"
    try:
        with socket.create_connection((host, wire.STEADY), PATIENCE) as connection:
            step = "talk"
            greeted(connection)
        return "ok"
    except (OSError, EOFError) as error:
        return f"{step} {type(error).__name__}"


def steadily(host):
    while not over.wait(PAUSE):
        came[one(host)] += 1


def keep(host):
    """Lives through what its proxy lives through; a new one when it ends."""
    while not over.is_set():
        try:
            with socket.create_connection((host, wire.STEADY), PATIENCE) as connection:
                greeted(connection)
                while not over.wait(0.05):
                    connection.sendall(b"word\n")
                    wire.read_json(connection)
                    kept["words"] += 1
        except (OSError, EOFError) as error:
            kept[type(error).__name__] += 1
            over.wait(PAUSE)


threads = [threading.Thread(target=work, args=[host]) for host in hosts for work in (steadily, keep)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for _line in sys.stdin:
    print(json.dumps({"came": dict(came), "seen": dict(seen), "kept": dict(kept)}), flush=True)
over.set()
for thread in threads:
    thread.join()
