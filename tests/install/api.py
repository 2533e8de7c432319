"""An API server that answers for one DaemonSet over TLS, as badly as it is told: api.py CERTIFICATE KEY TOKEN ANSWERS LOG.

ANSWERS is a comma-separated list, one for each request; the last one stays. A number is a status, `garbage` is no JSON, `slow` takes
longer than a client waits, `half` ends in the middle, `behind` is a DaemonSet that is not there yet, `ready` one that is.
"""

import http.server
import json
import ssl
import sys
import time

certificate, key, token, answers, log = sys.argv[1:]
answers = answers.split(",")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        with open(log, "a") as file:
            file.write(f"{answer} {self.path} {self.headers['Authorization'] == 'Bearer ' + token}\n")
        ready = {"metadata": {"generation": 2}, "status": {
            "observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3,
            "numberReady": 2 if answer == "behind" else 3}}
        body = json.dumps(ready).encode()
        status = 200
        if answer.isdigit():
            status, body = int(answer), b'{"kind":"Status","message":"no"}'
        elif answer == "garbage":
            body = b"<html>\0"
        elif answer == "slow":
            time.sleep(12)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (1000 if answer == "half" else 0)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
