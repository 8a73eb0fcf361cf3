"""`make deploy` and `cargo lambda deploy` as a user runs them, against moto's AWS."""

import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse

from samtranslator.yaml_helper import yaml_parse
from support import ENVIRONMENT, REGION, ROOT, SETTINGS, Aws, aws, run, translated

POOL = "eu-west-1_AbCd12345"
KEY = SETTINGS["USERHUB_ADMIN_KEY"]


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
                question = said.splitlines()[-1] if said else ""
                if question.endswith(": "):
                    asked = f"{question[:-2]} "
                    answer = next((answer for name, answer in answers.items() if f" {name} " in asked), "")
                    os.write(terminal, f"{answer}\n".encode())
    finally:
        os.close(terminal)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(said)


class Deploy(unittest.TestCase):
    def setUp(self):
        self.aws = Aws()
        self.addCleanup(self.aws.stop)
        self.aws.instead["CreateChangeSet"] = self.transformed
        self.environment = {"AWS_ENDPOINT_URL": self.aws.url, "AWS_REGION": REGION}

    def transformed(self, body):
        """A change set's template after SAM's transform, which is CloudFormation's part and not in moto."""
        form = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        if "TemplateURL" in form:
            bucket, key = urllib.parse.urlparse(form.pop("TemplateURL")).path[1:].split("/", 1)
            form["TemplateBody"] = self.aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        template = yaml_parse(form["TemplateBody"])
        if "Transform" in template:
            parameters = {value: form.get(name.replace("ParameterKey", "ParameterValue"), "")
                          for name, value in form.items() if name.endswith("ParameterKey")}
            form["TemplateBody"] = json.dumps(translated(template, parameters))
        return urllib.parse.urlencode(form).encode()

    def test_asks_once_and_keeps_the_key_to_itself(self):
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(run, "rm", "-r", folder)
        # A copy of the project, since SAM writes down the answers beside the template.
        files = run("git", "ls-files").stdout.split()
        subprocess.run(["cp", "--parents", "--target-directory", folder, *files], cwd=ROOT, check=True)
        for name in ["target", ".tools"]:
            (folder / name).symlink_to(ROOT / name)

        answers = {"UserPoolId": POOL, "ConnectionId": "conn_local", "AdminKey": KEY}
        said, code = talk(["make", "deploy"], folder, self.environment, answers)
        self.addCleanup(lambda: self.aws.client("cloudformation").delete_stack(StackName="userhub-signin"))
        self.assertEqual(code, 0, said)
        self.assertIn(f"make attach USER_POOL_ID={POOL} FUNCTION=userhub-signin", said)
        saved = (folder / "samconfig.toml").read_text()
        self.assertIn(POOL, saved)
        self.assertIn('stack_name = "userhub-signin"', saved)
        self.assertNotIn(KEY, said)
        self.assertNotIn(KEY, saved)
        self.assertEqual(self.variables(), SETTINGS)

        again = run("make", "deploy", cwd=folder, environment=self.environment)
        self.assertIn("is up to date", again.stdout)
        self.assertEqual(self.variables(), SETTINGS)
        (folder / "samconfig.toml").write_text(saved.replace("conn_local", "conn_other"))
        run("make", "deploy", cwd=folder, environment=self.environment)
        self.assertEqual(self.variables(), {**SETTINGS, "AMAZON_COGNITO_CONNECTION_ID": "conn_other"})

        refused = run("make", "deploy", "ARCH=sparc", cwd=folder, environment=self.environment, check=False)
        self.assertIn("ARCH is x86_64 or arm64, not sparc", refused.stderr)

    def variables(self):
        return self.function()["Environment"]["Variables"]

    def function(self):
        return aws(self.aws.url, "lambda", "get-function-configuration", "--function-name", "userhub-signin")

    def test_cargo_lambda_deploys_the_same_function(self):
        run("make", "build")
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
            file.flush()
            run("cargo", "lambda", "deploy", "--env-file", file.name, "userhub-signin", environment=self.environment)
        function = self.function()
        self.addCleanup(lambda: self.aws.client("lambda").delete_function(FunctionName="userhub-signin"))
        self.assertEqual(function["Environment"]["Variables"], SETTINGS)
        planned = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]["Function"]["Properties"]
        for name in ["Runtime", "Handler", "MemorySize", "Timeout"]:
            self.assertEqual(function[name], planned[name], name)
        [group] = aws(self.aws.url, "logs", "describe-log-groups")["logGroups"]
        self.addCleanup(lambda: self.aws.client("logs").delete_log_group(logGroupName="/aws/lambda/userhub-signin"))
        self.assertEqual((group["logGroupName"], group["retentionInDays"]), ("/aws/lambda/userhub-signin", 30))
