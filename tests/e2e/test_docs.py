"""The way through docs/deploy.md, with the commands as they are written there."""

import re
import shutil
import tempfile
import unittest

from support import ROOT, SETTINGS, Ministack, UserHub, client, run

PAGE = (ROOT / "docs/deploy.md").read_text()
POOL = "eu-west-1_AbCd12345"  # the one in the page
CONNECTION = "conn_AbCd12345"
ZIP = "userhub-signin-x86_64.zip"


def commands(heading):
    """The commands in a section of the page."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ *\$ (.+)", section, re.MULTILINE)


class Deploying(unittest.TestCase):
    def setUp(self):
        self.aws = Ministack()
        self.addCleanup(self.aws.stop)
        self.cognito = client(self.aws.url, "cognito-idp")
        self.pool = self.cognito.create_user_pool(PoolName="pool")["UserPool"]["Id"]
        run("make", "build")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(lambda: [path.unlink() for path in (ROOT / "user-pools").glob(f"{self.pool}-*")])
        self.zip = shutil.copy(ROOT / "target/lambda/userhub-signin/bootstrap.zip", f"{folder.name}/{ZIP}")

    def run_as_written(self, command):
        for written, here in [
            (POOL, self.pool),
            (CONNECTION, SETTINGS["AMAZON_COGNITO_CONNECTION_ID"]),
            (ZIP, self.zip),
            # The emulator has neither saved queries nor access keys.
            ('PARAMETERS="ConnectionUser=yes', 'PARAMETERS="'), ('PARAMETERS="', 'PARAMETERS="SavedQueries=no '),
        ]:
            command = command.replace(written, here)
        environment = {"AWS_ENDPOINT_URL": self.aws.url, "SAM_CLI_POLL_DELAY": "0.3",
                       "USERHUB_ADMIN_KEY": SETTINGS["USERHUB_ADMIN_KEY"]}
        return run("sh", "-c", command, environment=environment, check=False)

    def test_every_command_works_in_the_order_of_the_page(self):
        steps = commands("Step by step") + commands("Removing it")
        self.assertEqual([step.split()[:2] for step in steps], [["make", target] for target in [
            "deploy", "deploy", "smoke", "attach", "attach", "status", "detach", "remove"]])
        userhub = UserHub()
        for step in steps:
            if step.startswith("make smoke"):  # the page's function would report to the real UserHub
                self.report_to(userhub.base_url)
            with self.subTest(step):
                done = self.run_as_written(step)
                problems = re.findall(r"^problem .*", done.stdout, re.MULTILINE)
                if step.startswith("make status"):  # the emulator evaluates no query
                    self.assertRegex("\n".join(problems), r"^problem +reports could not be read.*$")
                else:
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                if step.startswith(("make attach", "make detach")) and "DRY_RUN" not in step:
                    [stack] = client(self.aws.url, "cloudformation").describe_stacks(
                        StackName="userhub-signin")["Stacks"]
                    self.assertEqual(stack["EnableTerminationProtection"], step.startswith("make attach"))
        self.assertEqual(userhub.end(), ["sample"])
        self.assertEqual(client(self.aws.url, "lambda").list_functions()["Functions"], [])

    def report_to(self, base_url):
        function = client(self.aws.url, "lambda")
        name = "userhub-signin"
        variables = function.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        function.update_function_configuration(
            FunctionName=name, Environment={"Variables": {**variables, "USERHUB_BASE_URL": base_url}})
