"""What the end-to-end tests start. All of it listens on this machine, and ends by itself after five minutes at most."""

import atexit
import contextlib
import http.client
import io
import json
import logging
import os
import pathlib
import platform
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile

import boto3
import botocore.config
import botocore.exceptions
from moto.cloudformation.models import cloudformation_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

ROOT = pathlib.Path(__file__).parents[2]
BINARY = os.environ["USERHUB_SIGNIN_BINARY"]
REGION = "eu-west-1"
ACCOUNT = "123456789012"  # moto's
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
# What every program here finds in its environment: nothing of the user's own AWS accounts.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items()
       if not name.startswith(("AWS_", "USERHUB_", "AMAZON_", "SAM_"))},
    **CREDENTIALS,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
    "SAM_CLI_TELEMETRY": "0",
}
# The settings that the tests' stand-in for UserHub expects.
SETTINGS = {"USERHUB_ADMIN_KEY": "userhub_admin_local", "AMAZON_COGNITO_CONNECTION_ID": "conn_local"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(*command, environment=None, check=True, **options):
    """A program's whole run. What it printed is in the error when it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, cwd=options.pop("cwd", ROOT),
        env={**ENVIRONMENT, **(environment or {})}, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def aws(endpoint, *arguments):
    """The AWS CLI against an emulator."""
    printed = run("aws", "--output", "json", *arguments, environment={"AWS_ENDPOINT_URL": endpoint}).stdout
    return json.loads(printed) if printed.strip() else {}


def client(endpoint, service):
    """For preparing what a test needs; what a user would do goes through the CLI."""
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id="testing",
                        aws_secret_access_key="testing", config=botocore.config.Config(retries={"max_attempts": 0}))


class Process:
    """A program in the background, and the lines that it printed."""

    def __init__(self, *command, environment=None, **options):
        self.lines = []
        self.process = subprocess.Popen(
            ["timeout", "--kill-after=5", "300", *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, **(environment or {})}, **options)
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stdout.readline, "")),
                                       daemon=True)
        self.reader.start()
        atexit.register(self.process.terminate)  # `timeout` passes it on; nothing happens to what has ended

    def wait_for(self, pattern, count=1):
        """The first line with the pattern, once there are so many of them."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [line for line in self.lines if re.search(pattern, line)]
            if len(found) >= count:
                return found[0].strip()
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in {''.join(self.lines)}")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdin.close()
        self.reader.join()
        self.process.stdout.close()


class UserHub(Process):
    """The strict stand-in of the function's own tests."""

    def __init__(self, fault=None):
        super().__init__(ROOT / "target/debug/userhub", *([fault] if fault else []))
        self.base_url = self.wait_for("^http")

    def end(self):
        """The user names whose sign-ins were reported. Fails if anything else was sent."""
        reports = self.reports()
        if any(event_type != "SIGNIN" for event_type, _ in reports):
            raise AssertionError(f"something else than sign-ins was reported: {reports}")
        return [user for _, user in reports]

    def reports(self):
        """The type of event and the user name of each report. Fails if anything else was sent."""
        self.process.stdin.close()
        self.reader.join()
        self.process.stdout.close()
        if self.process.wait() != 0:
            raise AssertionError("".join(self.lines))
        return [tuple(report) for report in json.loads(self.lines[-1])]


class Lambda(Process):
    """The release binary in AWS's own runtime interface emulator."""

    def __init__(self, base_url, port=None, binary=BINARY, settings=SETTINGS):
        self.port = port or free_port()
        machine = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
        [emulator] = ROOT.glob(f".tools/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}")
        super().__init__(
            emulator, "--runtime-interface-emulator-address", f"127.0.0.1:{self.port}", "--runtime-api-address",
            f"127.0.0.1:{free_port()}", binary,
            environment={**settings, "USERHUB_BASE_URL": base_url, "AWS_LAMBDA_LOG_FORMAT": "JSON"})
        wait_until_open(self.port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def invoke(self, event):
        """The function's answer to the bytes of an event."""
        path = "/2015-03-31/functions/function/invocations"
        with urllib.request.urlopen(f"{self.url}{path}", event, timeout=10) as answer:
            return answer.read()

    def process_id(self):
        """The function's own process, the grandchild of `timeout`."""
        process = self.process.pid
        for _ in range(2):
            threads = pathlib.Path(f"/proc/{process}/task").iterdir()  # any of them can have started it
            [process] = [child for thread in threads for child in (thread / "children").read_text().split()]
        return int(process)

    def successes(self, count):
        """How many of the invocations ended well, once there were so many."""
        self.wait_for(r"INVOKE RTDONE\(", count)
        return sum("INVOKE RTDONE(status: success" in line for line in self.lines)

    def outcomes(self, count):
        """The function's lines about sign-ins, once there are so many."""
        self.wait_for('"outcome"', count)
        return [json.loads(line) for line in self.lines if line.startswith("{") and '"outcome"' in line]


def wait_until_open(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens at port {port}")


class Gate:
    """In front of an emulator of AWS: a place to look at and change what goes in and out of it."""

    def __init__(self, emulator):
        self.emulator = emulator
        self.instead = {}  # operation: what AWS answers in its place, from the request's JSON; None lets it pass
        self.also = {}  # operation: what becomes of AWS's JSON
        self.calls = []  # the operations that came
        self.queries = []  # and what their URLs asked for
        self.here = threading.local()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _serve(self, environ, start_response):
        request = Request(environ)
        body = request.get_data()
        operation = request.headers.get("X-Amz-Target", request.path).split(".")[-1]
        if operation.endswith("/invocations"):
            operation = "Invoke"
        elif request.mimetype == "application/x-www-form-urlencoded":
            operation = urllib.parse.parse_qs(body.decode()).get("Action", [operation])[0]
        self.calls.append(operation)
        self.before(operation)
        self.queries.append(f"{operation}?{request.query_string.decode()}")
        # The emulator reads the body again.
        self.here.emulated = lambda: Response.from_app(self.emulator, {
            **environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))})
        if operation in self.instead:
            answer = self.instead[operation](body)
            if isinstance(answer, Response):
                return answer(environ, start_response)
            body = answer or body
        answer = self.here.emulated()
        if operation in self.also and answer.status_code < 300:
            answer.set_data(json.dumps(self.also[operation](answer.get_json(force=True))))
        self.after(operation)
        return answer(environ, start_response)

    def emulated(self):
        """What the emulator answers to the request at hand, for what is said in its place."""
        return self.here.emulated()

    def before(self, operation):
        """What a test does before an operation."""

    def after(self, operation):
        """What the emulator lacks after an operation."""

    def refuse(self, operation, code, message="no", status=400):
        """Lets the operation fail as AWS's JSON and query protocols do."""
        def answer(body):
            if b"Action=" in body:
                error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                return Response(f"<ErrorResponse>{error}</ErrorResponse>", status, content_type="text/xml")
            return Response(json.dumps({"__type": code, "message": message}), status,
                            headers={"x-amzn-errortype": code}, content_type="application/x-amz-json-1.1")

        self.instead[operation] = answer

    def client(self, service):
        return client(self.url, service)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Aws(Gate):
    """moto's AWS."""

    def __init__(self):
        super().__init__(DomainDispatcherApplication(create_backend_app))

    def after(self, operation):
        if operation == "ExecuteChangeSet":  # moto forgets the outputs of stacks that came about by a change set
            for stack in self.stacks():
                stack._parse_template()
                stack.output_map = stack._create_output_map()

    def stacks(self):
        """moto's CloudFormation stacks."""
        return cloudformation_backends[ACCOUNT][REGION].stacks.values()


class Ministack(Process):
    """An AWS that transforms templates, evaluates their rules, and runs the function's binary without a container.

    It parses events and writes them again, so only an event that is written as Python does it comes back byte for byte.
    """

    def __init__(self, port=None):
        port = port or free_port()
        self.folder = tempfile.TemporaryDirectory()
        emulator = pathlib.Path(__file__).with_name("emulator.py")
        super().__init__(sys.executable, "-P", emulator, cwd=self.folder.name, environment={
            "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0",
            "MINISTACK_REGION": REGION, "MINISTACK_ACCOUNT_ID": ACCOUNT, "TMPDIR": self.folder.name,
            "AWS_LAMBDA_LOG_FORMAT": "JSON"})
        self.url = f"http://127.0.0.1:{port}"
        wait_until_open(port)

    def client(self, service):
        return client(self.url, service)

    def upload(self, content):
        """A new bucket with the zip, as the parameters of a release's template name it."""
        s3, bucket = self.client("s3"), f"bucket-{time.monotonic_ns()}"
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=bucket, Key="code.zip", Body=content)
        return {"CodeBucket": bucket, "CodeKey": "code.zip"}

    def deploy(self, name, template, update=False, **parameters):
        """Creates or updates a stack. Gives its outputs."""
        cloudformation, done = self.client("cloudformation"), "update" if update else "create"
        getattr(cloudformation, f"{done}_stack")(
            StackName=name, TemplateBody=template, Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()])
        try:
            cloudformation.get_waiter(f"stack_{done}_complete").wait(StackName=name, WaiterConfig={"Delay": 0.2})
        except botocore.exceptions.WaiterError:
            events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
            raise AssertionError([(event["LogicalResourceId"], event.get("ResourceStatusReason")) for event in events
                                  if "FAILED" in event["ResourceStatus"]]) from None
        [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def set_variables(self, function, **variables):
        """Changes these variables of a function."""
        functions = self.client("lambda")
        before = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
        functions.update_function_configuration(
            FunctionName=function, Environment={"Variables": {**before, **variables}})

    def stop(self):
        super().stop()
        self.folder.cleanup()


class GuardedMinistack(Gate):
    """ministack behind a gate."""

    def __init__(self, port=None):
        self.ministack = Ministack(port)
        super().__init__(self.forward)

    def forward(self, environ, start_response):
        request = Request(environ)
        port = int(self.ministack.url.rsplit(":", 1)[1])
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            connection.request(request.method, request.full_path, request.get_data(), {
                name: value for name, value in request.headers if name != "Expect"})
            answer = connection.getresponse()
            headers = [(name, value) for name, value in answer.getheaders()
                       if name.lower() not in ("connection", "transfer-encoding")]
            return Response(answer.read(), answer.status, headers)(environ, start_response)

    def stop(self):
        super().stop()
        self.ministack.stop()


def talk(command, folder, environment, answers):
    """What a program says on a terminal to somebody who gives these answers, and to other questions an empty one."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, {**ENVIRONMENT, **environment, "TERM": "dumb"})
    said, deadline = "", time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([terminal], [], [], 0.3)
            if ready:
                try:
                    heard = os.read(terminal, 65536)
                except OSError:  # the program has ended
                    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                said += re.sub(r"\x1b\[[0-9;]*m", "", heard.decode(errors="replace"))
            else:
                question = said.rpartition("\n")[2]
                if question.endswith(": "):
                    asked = f"{question[:-2]} "
                    answer = next((answer for name, answer in answers.items() if f" {name} " in asked), "")
                    os.write(terminal, f"{answer}\n".encode())
    finally:
        os.close(terminal)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(said)


def security_scan(source, suffix, framework):
    """What checkov finds in a source."""
    with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:
        file.write(source)
        file.flush()
        return json.loads(run(
            ROOT / ".tools/checkov/bin/checkov", "--file", file.name, "--framework", framework, "--skip-download",
            "--output", "json", check=False).stdout)["results"]


def zipped(binary, comment=b""):
    """The bytes of a zip with the function's code."""
    file, entry = io.BytesIO(), zipfile.ZipInfo("bootstrap")
    entry.external_attr = 0o100755 << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment
        archive.writestr(entry, pathlib.Path(binary).read_bytes(), zipfile.ZIP_DEFLATED, 1)
    return file.getvalue()
