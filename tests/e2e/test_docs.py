"""The way through docs/deploy.md, with the commands as they are written there, by both versions of the AWS CLI."""

import os
import pathlib
import re
import shutil
import tempfile
import time
import unittest

from program import CLI_2
from support import ACCOUNT, REGION, ROOT, SETTINGS, GuardedMinistack, UserHub, run, talk
from test_sign_in import Cognito

PAGE = (ROOT / "docs/deploy.md").read_text()
POOL = "eu-west-1_AbCd12345"  # the one in the page
CONNECTION = "conn_AbCd12345"
STEPS = ["connect", "deploy", "smoke", "attach", "attach", "status", "detach", "remove"]


def commands(heading):
    """The commands in a section of the page."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ *\$ (.+)", section, re.MULTILINE)


class Deploying(Cognito):
    """cognito-local has the users that sign in; ministack has the pool that calls the function, and the function."""

    triggers = ["PostAuthentication"]
    function = "userhub-signin"

    def setUp(self):
        self.aws = GuardedMinistack(self.lambda_port)
        self.addCleanup(self.aws.stop)
        self.pool = self.aws.client("cognito-idp").create_user_pool(PoolName="pool")["UserPool"]["Id"]
        self.aws.client("cognito-idp").admin_create_user(UserPoolId=self.pool, Username="sample")
        # A path with a space, in which there is nothing but the program.
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "a folder")
        self.folder.mkdir()
        run("make", "pyz")
        shutil.copy(ROOT / "target/userhub-signin.pyz", self.folder)

    def run_as_written(self, command, answers, path):
        for written, here in [(POOL, self.pool), (CONNECTION, SETTINGS["AMAZON_COGNITO_CONNECTION_ID"])]:
            command = command.replace(written, here)
        started = time.monotonic()
        said, code = talk(["sh", "-c", command], self.folder, {"AWS_ENDPOINT_URL": self.aws.url, "PATH": path}, answers)
        print(f"{command}: {time.monotonic() - started:.1f} s")
        self.assertNotIn("\x1b", said)
        return said, code

    def walk(self, path):
        steps = commands("Step by step") + commands("Removing it")
        self.assertEqual([step.split()[:3] for step in steps], [
            ["python3", "userhub-signin.pyz", command] for command in STEPS])
        userhub, questions = UserHub(), 0
        for number, step in enumerate(steps):
            with self.subTest(step):
                said, code = self.run_as_written(step, {"API": SETTINGS["USERHUB_ADMIN_KEY"]}, path)
                questions += said.count("(not shown)")
                if STEPS[number] == "status":  # the emulator evaluates no query
                    findings = re.findall(r"^(?:problem|unknown)  .*", said, re.MULTILINE)
                    self.assertEqual(len(findings), 1, said)
                    self.assertRegex(findings[0], "^unknown +reports: reports: CloudWatch Logs Insights answered")
                    self.assertIn("sign-ins    ok", said)
                else:
                    self.assertEqual(code, 0, said)
                if STEPS[number] == "deploy":
                    for name in ["userhub-signin", "userhub-signin-queue"]:
                        self.aws.ministack.set_variables(name, USERHUB_BASE_URL=userhub.base_url)
                if number == STEPS.index("status") - 1:
                    described = self.aws.client("cognito-idp").describe_user_pool(UserPoolId=self.pool)["UserPool"]
                    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:userhub-signin"
                    self.assertEqual(described["LambdaConfig"], {"PostAuthentication": arn})
                    self.authenticate(self.pool_with(["grace"]), ["grace"])
        self.assertEqual(userhub.end(), ["sample", "grace"])
        self.assertEqual(questions, 1)
        self.assertEqual(self.aws.client("lambda").list_functions()["Functions"], [])
        left = {found["StackName"] for found in self.aws.client("cloudformation").describe_stacks()["Stacks"]
                if found["StackStatus"] != "DELETE_COMPLETE"}
        self.assertEqual(left, {"userhub-signin-connection"}, "people still sign in to the Portal")

    def test_every_command_works_in_the_order_of_the_page(self):
        self.walk(os.environ["PATH"])

    @unittest.skipUnless(os.environ.get("CI") or CLI_2, "no AWS CLI of the system")
    def test_every_command_works_with_version_2_of_the_cli(self):
        self.assertRegex(run(CLI_2, "--version").stdout, r"^aws-cli/2\.")
        command = self.folder / "aws"
        # Debian's does not know the variable for the endpoint, nor what user pools have since.
        self.aws.also["DescribeUserPool"] = lambda answer: answer["UserPool"].pop("UserPoolTier") and answer
        command.write_text(f'#!/bin/sh\nexec {CLI_2} --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n')
        command.chmod(0o755)
        self.walk(f"{self.folder}:{os.environ['PATH']}")


class Length(unittest.TestCase):
    def test_the_page_is_short(self):
        self.assertLessEqual(len(PAGE.split()), 1500)
