"""A client that is told what to do: talk.py AUTHORITY, then one order a line on its input, an answer a line on its output.

An order is `{"host": ADDRESS, "talks": [NAME...], "number": NUMBER}`, no two with the same number; the answer has for each talk
what both ends saw of it.
"""

import http.client
import json
import secrets
import socket
import ssl
import struct
import sys
import threading

import grpc
import h2.config
import h2.connection
import h2.events
import websockets.sync.client

import wire

authority = sys.argv[1]
context = ssl.create_default_context(cafile=authority)
PATIENCE = 30
MEGABYTES = 64


class Talk:
    """One talk, and what was seen of it."""

    def __init__(self, host, name, number):
        self.host, self.name = host, f"{name}-{number}".replace(" ", "-")
        self.seen = {"talk": name, "id": self.name, "local": None, "peer": None, "seen": [], "port": None, "error": None}

    def to(self, port):
        self.seen["port"] = port
        return (self.host, port)

    def connect(self, port):
        connection = socket.create_connection(self.to(port), PATIENCE)
        self.ends(connection)
        return connection

    def ends(self, connection):
        self.seen["local"] = wire.text(connection.getsockname())
        self.seen["peer"] = wire.text(connection.getpeername())

    def server_saw(self, answer):
        if answer["seen"] not in self.seen["seen"]:
            self.seen["seen"].append(answer["seen"])
        return answer


def must(what, is_so):
    if not is_so:
        raise AssertionError(what)


# --- TCP ---


def client_first(talk):
    with talk.connect(wire.ECHO) as connection:
        for word in ["one", "two"]:
            connection.sendall(word.encode() + b"\n")
            must("an echo", talk.server_saw(wire.read_json(connection))["said"] == word)


def server_first(talk):
    with talk.connect(wire.BANNER) as connection:
        talk.server_saw(wire.read_json(connection))
        connection.sendall(b"word\n")
        must("an echo", wire.read_json(connection)["said"] == "word")


def half_close(talk):
    """The server answers only when it has read to the end."""
    with talk.connect(wire.BULK) as connection:
        connection.sendall(b"up 0\n")
        talk.server_saw(wire.read_json(connection))
        connection.sendall(b"all there is")
        connection.shutdown(socket.SHUT_WR)
        must("a digest", wire.read_json(connection)["digest"] == wire.digest_of([b"all there is"]))
        must("the end", connection.recv(1) == b"")


def download(talk):
    with talk.connect(wire.BULK) as connection:
        connection.sendall(f"down {MEGABYTES}\n".encode())
        talk.server_saw(wire.read_json(connection))
        must("the same bytes", wire.digest_of(wire.received(connection)) == wire.digest(MEGABYTES))


def upload(talk):
    with talk.connect(wire.BULK) as connection:
        connection.sendall(b"up 0\n")
        talk.server_saw(wire.read_json(connection))
        for block in wire.blocks(MEGABYTES):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        must("the same bytes", wire.read_json(connection)["digest"] == wire.digest(MEGABYTES))


def reset_by_server(talk):
    with talk.connect(wire.RESETS) as connection:
        connection.sendall(b"mine x\n")
        talk.server_saw(wire.read_json(connection))
        connection.sendall(b"now\n")
        try:
            must("a reset, not an end", connection.recv(1) == b"never")
        except ConnectionResetError:
            pass


def reset_by_client(talk):
    connection = talk.connect(wire.RESETS)
    connection.sendall(f"yours {talk.name}\n".encode())
    talk.server_saw(wire.read_json(connection))
    wire.reset(connection)
    # The server is told in its own time.
    end = None
    for _ in range(1000):
        with socket.create_connection((talk.host, wire.RESETS), PATIENCE) as question:
            question.sendall(f"how {talk.name}\n".encode())
            wire.read_json(question)
            end = wire.read_json(question)["end"]
        if end:
            break
        threading.Event().wait(0.01)
    must(f"a reset, not {end}", end == "ConnectionResetError")


def tls(talk):
    with talk.connect(wire.TLS) as connection, context.wrap_socket(connection, server_hostname=wire.NAME) as secured:
        secured.sendall(b"word\n")
        answer = talk.server_saw(wire.read_json(secured))
        must("an echo", answer["said"] == "word")
        must("the name that was asked for", answer["name"] == wire.NAME)


# --- DNS ---


def dns(talk):
    """Asks the resolver at that address, with a socket that is connected to it and with one that is not."""
    name = b"".join(bytes([len(part)]) + part for part in wire.RESOLVED.encode().split(b".")) + b"\0"
    family = socket.AF_INET6 if ":" in talk.host else socket.AF_INET
    resolver = talk.to(wire.DNS)
    for is_connected in [False, True]:
        query = secrets.token_bytes(2) + struct.pack(">5H", 0x0100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(PATIENCE)
            if is_connected:
                asking.connect(resolver)
                asking.send(query)
            else:
                asking.sendto(query, resolver)
            answer, by = asking.recvfrom(4096)
            must(f"the answer of {resolver}, not {by}", wire.text(by) == wire.text(resolver))
            must("the answer to it", answer[:2] == query[:2] and answer[3] & 15 == 0)
            must("the address", answer.endswith(socket.inet_aton(wire.RESOLVED_TO)))


# --- HTTP/1.1 ---


def answer_of(talk, response):
    body = response.read()
    must(f"200, not {response.status}: {body!r}", response.status == 200)
    return talk.server_saw(json.loads(body))


def http_keep_alive(talk):
    connection = http.client.HTTPConnection(*talk.to(wire.HTTP), timeout=PATIENCE)
    connection.connect()
    talk.ends(connection.sock)
    for _ in range(3):
        connection.request("GET", "/", headers={wire.TALK: talk.name})
        answer_of(talk, connection.getresponse())
        must("the same connection", wire.text(connection.sock.getsockname()) == talk.seen["local"])
    connection.close()


def http_new_connections(talk):
    for _ in range(3):
        connection = http.client.HTTPConnection(*talk.to(wire.HTTP), timeout=PATIENCE)
        connection.connect()
        talk.ends(connection.sock)
        connection.request("GET", "/", headers={wire.TALK: talk.name, "Connection": "close"})
        answer_of(talk, connection.getresponse())
        connection.close()


def http_chunked(talk):
    connection = http.client.HTTPConnection(*talk.to(wire.HTTP), timeout=PATIENCE)
    connection.connect()
    talk.ends(connection.sock)
    parts = [b"a" * 10, b"b" * 70_000, b"c"]
    connection.request("POST", "/", iter(parts), {wire.TALK: talk.name}, encode_chunked=True)
    answer = answer_of(talk, connection.getresponse())
    must("it arrived in chunks", answer["chunked"])
    must("the same bytes", answer["digest"] == wire.digest_of(parts))
    connection.close()


def http_expect(talk):
    """The body goes only when `100 Continue` has come."""
    with talk.connect(wire.HTTP) as connection:
        head = f"POST / HTTP/1.1\r\nHost: peer\r\n{wire.TALK}: {talk.name}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        must("100", wire.read_line(connection).startswith("HTTP/1.1 100"))
        while wire.read_line(connection):
            pass
        connection.sendall(b"body")
        answer = answer_of(talk, response_on(connection))
        must("the same bytes", answer["digest"] == wire.digest_of([b"body"]))


def response_on(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


# --- HTTP/2 ---


def http2(talk):
    """Three streams at once on one connection, without an upgrade."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    with talk.connect(wire.HTTP2) as connection:
        state.initiate_connection()
        bodies = {}
        for number in range(3):
            stream = state.get_next_available_stream_id()
            headers = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "peer"), (wire.TALK, talk.name)]
            state.send_headers(stream, headers)
            # All together less than the window that both start with.
            bodies[stream] = bytes([number]) * 16_000
            state.send_data(stream, bodies[stream], end_stream=True)
        connection.sendall(state.data_to_send())
        answers = {stream: b"" for stream in bodies}
        waiting = set(bodies)
        while waiting:
            data = connection.recv(1 << 16)
            must("the connection stays", data)
            for event in state.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    answers[event.stream_id] += event.data
                    state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    waiting.discard(event.stream_id)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise AssertionError(f"{event}")
            connection.sendall(state.data_to_send())
        for stream, body in bodies.items():
            answer = talk.server_saw(json.loads(answers[stream]))
            must("the same bytes", answer["digest"] == wire.digest_of([body]))


# --- gRPC ---


def grpc_channel(talk):
    host, port = talk.to(wire.GRPC)
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # One of its own for each talk, and straight there.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    return grpc.insecure_channel(at, options)


def grpc_trailers(talk, call):
    talk.server_saw({"seen": dict(call.trailing_metadata())["seen"]})


def grpc_unary(talk):
    with grpc_channel(talk) as channel:
        ask = channel.unary_unary("/test.Peer/Unary")
        answer, call = ask.with_call(b"abc", metadata=((wire.TALK, talk.name),), timeout=PATIENCE, wait_for_ready=True)
        must("an answer", answer == b"cba" and call.code() == grpc.StatusCode.OK)
        grpc_trailers(talk, call)


def grpc_status(talk):
    """An error is nothing but trailers."""
    with grpc_channel(talk) as channel:
        ask = channel.unary_unary("/test.Peer/Unary")
        try:
            ask(b"no", metadata=((wire.TALK, talk.name),), timeout=PATIENCE, wait_for_ready=True)
        except grpc.RpcError as error:
            must("its own status", error.code() == grpc.StatusCode.FAILED_PRECONDITION and error.details() == "as asked for")
            grpc_trailers(talk, error)
        else:
            raise AssertionError("it worked")


def grpc_stream(talk):
    with grpc_channel(talk) as channel:
        ask = channel.stream_stream("/test.Peer/Stream")
        words = [b"one", b"two" * 10_000, b"three"]
        call = ask(iter(words), metadata=((wire.TALK, talk.name),), timeout=PATIENCE, wait_for_ready=True)
        must("an answer to each", list(call) == [word[::-1] for word in words])
        must("OK", call.code() == grpc.StatusCode.OK)
        grpc_trailers(talk, call)


# --- WebSocket ---


def websocket(talk):
    host, port = talk.to(wire.WEBSOCKET)
    connection = socket.create_connection((host, port), PATIENCE)
    talk.ends(connection)
    to = {"uri": "ws://peer/", "sock": connection, "additional_headers": {wire.TALK: talk.name}, "proxy": None}
    with websockets.sync.client.connect(**to, open_timeout=PATIENCE) as client:
        talk.server_saw(json.loads(client.recv(PATIENCE)))
        for message in ["text", b"\x00binary" * 10_000]:
            client.send(message)
            must("an echo", client.recv(PATIENCE) == message)
        must("a pong", client.ping().wait(PATIENCE))


TALKS = {
    "tcp client-first": client_first,
    "tcp server-first": server_first,
    "tcp half-close": half_close,
    "tcp 64 MiB down": download,
    "tcp 64 MiB up": upload,
    "tcp reset by server": reset_by_server,
    "tcp reset by client": reset_by_client,
    "tls with sni": tls,
    "dns": dns,
    "http/1.1 keep-alive": http_keep_alive,
    "http/1.1 connections": http_new_connections,
    "http/1.1 chunked": http_chunked,
    "http/1.1 expect": http_expect,
    "http/2": http2,
    "grpc unary": grpc_unary,
    "grpc status": grpc_status,
    "grpc streams": grpc_stream,
    "websocket": websocket,
}

print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    seen = []
    for name in order["talks"]:
        talk = Talk(order["host"], name, order["number"])
        try:
            TALKS[name](talk)
        except Exception as error:
            talk.seen["error"] = f"{type(error).__name__}: {error}"
        seen.append(talk.seen)
    print(json.dumps(seen), flush=True)
