"""The queue: from a sign-in while UserHub fails to the report, with ministack's SQS, mapping and functions."""

import http.server
import json
import re
import shlex
import socket
import threading
import time
import unittest

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from support import (
    BINARY,
    CREDENTIALS,
    REGION,
    ROOT,
    SETTINGS,
    Lambda,
    Ministack,
    UserHub,
    free_port,
    run,
    zipped,
)
from test_sign_in import USER_NAMES, Cognito
from test_template import POOL, SOURCE, released_template

EVENT = (ROOT / "events/post-authentication.json").read_bytes().strip()


def forward(port, target):
    """From now on that port of this machine is the other one."""
    def pass_on(one, other):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)

    def serve():
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", target))
            for pair in [(client, server), (server, client)]:
                threading.Thread(target=pass_on, args=pair, daemon=True).start()

    listener = socket.create_server(("127.0.0.1", port))
    threading.Thread(target=serve, daemon=True).start()


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Waiting(Cognito):
    triggers = ["PostAuthentication"]
    function = "userhub-signin"

    def setUp(self):
        self.aws = Ministack(self.lambda_port)
        self.addCleanup(self.aws.stop)
        self.sqs = self.aws.client("sqs")
        self.userhub_port = free_port()

    def deploy(self, **parameters):
        """The released template, for a UserHub that is not there yet."""
        self.outputs = self.aws.deploy(
            "userhub-signin", released_template(SOURCE, "x86_64"), UserPoolId=POOL, ConnectionId="conn_local",
            AdminKey=SETTINGS["USERHUB_ADMIN_KEY"], **self.aws.upload(zipped(BINARY)), **parameters)
        for function in [self.outputs["FunctionName"], self.outputs["QueueFunctionName"]]:
            self.aws.set_variables(function, USERHUB_BASE_URL=f"http://127.0.0.1:{self.userhub_port}")
        # The test has less time than an outage.
        self.set_queue(VisibilityTimeout="1")

    def set_queue(self, **attributes):
        self.sqs.set_queue_attributes(QueueUrl=self.outputs["QueueUrl"], Attributes=attributes)

    def waiting(self, queue="QueueUrl"):
        """How many messages are in a queue."""
        counts = self.sqs.get_queue_attributes(QueueUrl=self.outputs[queue], AttributeNames=[
            "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"])["Attributes"]
        return sum(map(int, counts.values()))

    def sign_in(self, users):
        self.authenticate(self.pool_with(users), users)

    def test_what_userhub_did_not_take_is_reported_once_it_is_back(self):
        self.deploy()
        self.sign_in(USER_NAMES)
        self.assertEqual(self.waiting(), len(USER_NAMES))
        time.sleep(1.5)  # longer than a message is hidden: the queue's function has tried them without success
        self.assertEqual(self.waiting(), len(USER_NAMES))
        userhub = UserHub()
        forward(self.userhub_port, int(userhub.base_url.rpartition(":")[2]))
        wait_until(lambda: self.waiting() == 0)
        self.assertEqual(sorted(userhub.end()), sorted(USER_NAMES))

    def test_a_sign_in_that_reports_through_the_queue_does_not_know_userhub(self):
        self.deploy(ReportVia="queue")
        userhub = UserHub()
        forward(self.userhub_port, int(userhub.base_url.rpartition(":")[2]))
        variables = self.aws.client("lambda").get_function_configuration(FunctionName="userhub-signin")["Environment"]
        self.assertFalse(variables["Variables"].keys() & SETTINGS.keys())
        self.sign_in(["plain"])
        wait_until(lambda: self.waiting() == 0)
        self.assertEqual(userhub.end(), ["plain"])

    def test_what_is_no_report_is_given_up_and_comes_back_by_the_documented_command(self):
        self.deploy()
        queue = self.sqs.get_queue_attributes(QueueUrl=self.outputs["QueueUrl"], AttributeNames=["RedrivePolicy"])
        policy = json.loads(queue["Attributes"]["RedrivePolicy"])
        self.set_queue(RedrivePolicy=json.dumps({**policy, "maxReceiveCount": 2}))
        userhub = UserHub()
        forward(self.userhub_port, int(userhub.base_url.rpartition(":")[2]))
        self.sqs.send_message(QueueUrl=self.outputs["QueueUrl"], MessageBody="hello")
        self.sign_in(["plain"])  # is reported all the same
        wait_until(lambda: self.waiting("DeadLetterQueueUrl") == 1)
        self.assertEqual(self.waiting(), 0)

        [alarm] = self.aws.client("cloudwatch").describe_alarms(AlarmNames=["userhub-signin-given-up"])["MetricAlarms"]
        [command] = re.findall(r"aws sqs start-message-move-task .*", alarm["AlarmDescription"])
        self.set_queue(VisibilityTimeout="30")
        run(*shlex.split(command), "--endpoint-url", self.aws.url)
        self.assertEqual((self.waiting("DeadLetterQueueUrl"), self.waiting()), (0, 1))
        self.assertEqual(userhub.end(), ["plain"])


class Signature(unittest.TestCase):
    def test_it_is_the_one_that_botocore_computes(self):
        requests = []

        class Queue(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(200)
                answer = b'{"MessageId":"1","MD5OfMessageBody":"0"}'
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Queue)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        for token in [None, "IQoJb3JpZ2luX2VjEXAMPLE/+=="]:
            with self.subTest(token):
                function = Lambda("", settings={
                    "USERHUB_REPORT_VIA": "queue", "USERHUB_QUEUE_URL": f"http://{host}/123456789012/userhub-signin",
                    "AWS_REGION": REGION, **({"AWS_SESSION_TOKEN": token} if token else {})})
                self.addCleanup(function.stop)
                self.assertEqual(function.invoke(EVENT), EVENT)
                path, headers, body = requests.pop()
                authorization = headers["authorization"]
                [signed] = re.findall(r"SignedHeaders=([a-z0-9;-]+), ", authorization)
                self.assertLessEqual({"host", "x-amz-date", "x-amz-target"}, set(signed.split(";")))
                self.assertEqual(headers.get("x-amz-security-token"), token)

                request = botocore.awsrequest.AWSRequest(
                    "POST", f"http://{host}{path}", {name: headers[name] for name in signed.split(";")}, body)
                request.context["timestamp"] = headers["x-amz-date"]
                signer = botocore.auth.SigV4Auth(
                    botocore.credentials.Credentials(*CREDENTIALS.values(), token), "sqs", REGION)
                text = signer.string_to_sign(request, signer.canonical_request(request))
                self.assertTrue(authorization.endswith(f"Signature={signer.signature(text, request)}"), authorization)
                self.assertIn(f"Credential={signer.scope(request)}, ", authorization)
                self.assertEqual(json.loads(json.loads(body)["MessageBody"]), {
                    "version": 1, "userName": json.loads(EVENT)["userName"], "type": "SIGNIN"})
