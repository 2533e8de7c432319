"""All servers of a place: serve.py CERTIFICATE KEY. Each tells whoever asks which address it saw.

Says `ready` when all listen, and ends with its input.
"""

import json
import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import grpc
import h2.config
import h2.connection
import h2.events
import websockets.sync.server

import wire

certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
# A name for each thread; a handshake runs in the thread of its connection.
asked = threading.local()
context.sni_callback = lambda _socket, name, _context: setattr(asked, "name", name)


def listener(port):
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)


def each(port, serve):
    """A thread for each connection of a port."""
    listening = listener(port)

    def one(connection, peer):
        connection.settimeout(30)
        with connection:
            try:
                serve(connection, wire.text(peer))
            except (OSError, EOFError):
                pass

    def accept():
        while True:
            threading.Thread(target=one, args=listening.accept(), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


# --- TCP ---


def echo(connection, peer):
    """The client speaks first."""
    while True:
        said = wire.read_line(connection)
        wire.write_json(connection, {"seen": peer, "said": said})


def banner(connection, peer):
    """The server speaks first."""
    wire.write_json(connection, {"seen": peer})
    echo(connection, peer)


def bulk(connection, peer):
    """`down N` or `up 0`: the latter is answered when the client has closed its half."""
    order, megabytes = wire.read_line(connection).split()
    if order == "down":
        wire.write_json(connection, {"seen": peer})
        for block in wire.blocks(int(megabytes)):
            connection.sendall(block)
    else:
        wire.write_json(connection, {"seen": peer})
        wire.write_json(connection, {"digest": wire.digest_of(wire.received(connection))})


ENDS = {}


def resets(connection, peer):
    """`mine`: resets. `yours NAME`: waits for the client's reset and remembers how it came. `how NAME`: tells."""
    order, name = wire.read_line(connection).split()
    wire.write_json(connection, {"seen": peer})
    if order == "mine":
        # So that the answer has arrived before the reset throws away what is on its way.
        wire.read_line(connection)
        wire.reset(connection)
    elif order == "yours":
        try:
            ENDS[name] = "EOF" if connection.recv(1) == b"" else "data"
        except OSError as error:
            ENDS[name] = type(error).__name__
    else:
        wire.write_json(connection, {"end": ENDS.get(name)})


def tls(connection, peer):
    with context.wrap_socket(connection, server_side=True) as secured:
        wire.write_json(secured, {"seen": peer, "said": wire.read_line(secured), "name": asked.name})


# --- HTTP/1.1 ---


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("content-length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_POST(self):
        chunked = self.headers.get("transfer-encoding") == "chunked"
        answer = {"seen": wire.text(self.client_address), "chunked": chunked, "digest": wire.digest_of(self.body())}
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in json.dumps(answer).encode().split(b" "):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self):
        answer = json.dumps({"seen": wire.text(self.client_address)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class HttpServer(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        pass  # a client that went; what it saw of it is the client's to say


# --- HTTP/2 ---


def http2(connection, peer):
    """Answers each stream with the hash of what it brought, several streams at a time."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    state.initiate_connection()
    connection.sendall(state.data_to_send())
    bodies = {}
    while data := connection.recv(1 << 16):
        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                bodies[event.stream_id] = []
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id].append(event.data)
                state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                answer = {"seen": peer, "digest": wire.digest_of(bodies.pop(event.stream_id))}
                state.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/json")])
                state.send_data(event.stream_id, json.dumps(answer).encode(), end_stream=True)
        connection.sendall(state.data_to_send())


# --- gRPC ---


def grpc_seen(context):
    """`ipv6:%5Bfd77::2%5D:4711` as an address."""
    host, port = unquote(context.peer()).split(":", 1)[1].rsplit(":", 1)
    return wire.text((host.strip("[]"), port))


def unary(request, context):
    context.set_trailing_metadata((("seen", grpc_seen(context)),))
    if request == b"no":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked for")
    return request[::-1]


def stream(requests, context):
    context.set_trailing_metadata((("seen", grpc_seen(context)),))
    for request in requests:
        yield request[::-1]


def grpc_server():
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", methods),))
    server.add_insecure_port(f"[::]:{wire.GRPC}")
    server.start()
    return server


# --- WebSocket ---


def websocket(connection):
    connection.send(json.dumps({"seen": wire.text(connection.remote_address)}))
    for message in connection:
        connection.send(message)


for port, serve in [
    (wire.ECHO, echo),
    (wire.BANNER, banner),
    (wire.BULK, bulk),
    (wire.RESETS, resets),
    (wire.STEADY, banner),
    (wire.TLS, tls),
    (wire.HTTP2, http2),
]:
    each(port, serve)
http = HttpServer(("::", wire.HTTP), Http)
sockets = websockets.sync.server.serve(websocket, sock=listener(wire.WEBSOCKET))
for server in (http, sockets):
    threading.Thread(target=server.serve_forever, daemon=True).start()
rpc = grpc_server()
print("ready", flush=True)
sys.stdin.read()
rpc.stop(None)
