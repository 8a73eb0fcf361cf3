"""TLS 1.2's renegotiation. The function's own tests cannot ask for it: rustls, which serves there, has none."""

import concurrent.futures
import json
import pathlib
import tempfile
import unittest

from support import ROOT, SETTINGS, Lambda, Process, free_port, run

EVENT = (ROOT / "events/post-authentication.json").read_bytes()


class Renegotiation(unittest.TestCase):
    def test_the_function_takes_no_part_and_reports_the_next_sign_in(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        key, certificate = pathlib.Path(folder.name, "key.pem"), pathlib.Path(folder.name, "certificate.pem")
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext",
            "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate)
        port = free_port()
        server = Process("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2", "-crlf", "-key", key,
                         "-cert", certificate)
        self.addCleanup(server.stop)
        server.wait_for("^ACCEPT")
        settings = {**SETTINGS, "USERHUB_EXTRA_CA_CERTS": str(certificate)}
        function = Lambda(f"https://localhost:{port}", settings=settings)
        self.addCleanup(function.stop)

        def type_in(text):
            server.process.stdin.write(text)
            server.process.stdin.flush()

        with concurrent.futures.ThreadPoolExecutor() as background:
            for count, typed in [(1, "r\n"), (2, "HTTP/1.1 200 OK\nContent-Length: 0\n\n")]:
                answer = background.submit(function.invoke, EVENT)
                server.wait_for("^content-length", count)
                type_in(typed)
                self.assertEqual(json.loads(answer.result()), json.loads(EVENT))
        server.wait_for("no renegotiation")
        first, second = function.outcomes(2)
        self.assertEqual(first["error_kind"], "unexpected_answer")
        self.assertEqual(second["outcome"], "reported")
