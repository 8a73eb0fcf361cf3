"""`make deploy` and `make remove` as a user runs them, against an emulator of CloudFormation and Lambda that runs the
function's binary; and `cargo lambda deploy`."""

import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock
import zipfile

from samtranslator.yaml_helper import yaml_parse
from support import ENVIRONMENT, REGION, ROOT, SETTINGS, Aws, Ministack, aws, run, talk

sys.path.insert(0, str(ROOT / "ops"))
import stack  # noqa: E402
import template  # noqa: E402
import trigger  # noqa: E402
from aws_cli import Aws as AwsCli  # noqa: E402
from aws_cli import Refusal  # noqa: E402
from function import Function  # noqa: E402
from package import Package  # noqa: E402

KEY = SETTINGS["USERHUB_ADMIN_KEY"]
BUILT = ROOT / "target/lambda/userhub-signin/bootstrap.zip"
# What ministack does not have.
LACKING = "SavedQueries=no"


def zip_with(content, name="bootstrap", mode=0o755):
    """A zip with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, content)
    return file.getvalue()


class Deploy(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        run("make", "build")
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        # A `sam` that writes down its arguments.
        real = ROOT / ".tools/bin/sam"
        cls.arguments = pathlib.Path(cls.folder.name, "arguments")
        fake = pathlib.Path(cls.folder.name, "sam")
        fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{cls.arguments}\nexec {real} "$@"\n')
        fake.chmod(0o755)

    def setUp(self):
        self.aws = Ministack()
        self.addCleanup(self.aws.stop)
        self.environment = {
            "AWS_ENDPOINT_URL": self.aws.url, "SAM_CLI_POLL_DELAY": "0.3",
            "PATH": f"{self.folder.name}:{os.environ['PATH']}"}
        self.pool = self.new_pool()

    def new_pool(self):
        return self.aws.client("cognito-idp").create_user_pool(PoolName="pool")["UserPool"]["Id"]

    def make(self, target, *options, code=0, key=None, typed=None):
        """What a target prints. It must end with that code, in sentences, and never show the key."""
        pool = () if any("USER_POOL_ID" in option for option in options) else (f"USER_POOL_ID={self.pool}",)
        done = run("make", "--no-print-directory", target, *pool, *options, check=False, input=typed or "",
                   environment={**self.environment, **({"USERHUB_ADMIN_KEY": key} if key else {})})
        printed = done.stdout + done.stderr
        self.assertEqual(min(done.returncode, 1), code, printed)
        self.assertNotIn("Traceback", printed)
        self.assertNotIn(KEY, printed)
        if self.arguments.exists():
            self.assertNotIn(KEY, self.arguments.read_text(), "arguments are in the process list")
        return printed

    def deploy(self, *options, **how):
        parameters = [option for option in options if option.startswith("PARAMETERS=")] or ["PARAMETERS="]
        others = [option for option in options if not option.startswith("PARAMETERS=")]
        return self.make("deploy", f"ZIP={BUILT}", f"{parameters[0]} {LACKING}", *others, **how)

    def function(self, name="userhub-signin"):
        return aws(self.aws.url, "lambda", "get-function-configuration", "--function-name", name)

    def variables(self):
        return self.function()["Environment"]["Variables"]

    def test_deploys_the_very_zip_and_checks_it(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.environment["TMPDIR"] = temporary.name
        before = set(ROOT.iterdir())
        printed = self.deploy("PARAMETERS=ConnectionId=conn_local", key=KEY)
        self.assertIn("returned a token refresh byte for byte", printed)
        self.assertIn(f"make attach USER_POOL_ID={self.pool}\n", printed)
        function = self.function()
        self.assertEqual(function["Environment"]["Variables"], SETTINGS)
        self.assertEqual(function["CodeSize"], BUILT.stat().st_size)
        sha256 = Package(BUILT).sha256
        self.assertIn(sha256, function["Description"])
        self.assertIn(sha256, printed)
        self.assertEqual(set(ROOT.iterdir()), before, "no file stays")
        self.assertEqual(os.listdir(temporary.name), [], "no file stays")

        # What is not named keeps its value.
        self.deploy("PARAMETERS=Report=after-response")
        self.assertEqual(self.variables(), {**SETTINGS, "USERHUB_REPORT": "after-response"})
        self.assertIn("nothing to change", self.deploy())
        self.deploy(key="userhub_admin_new")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], "userhub_admin_new")
        self.deploy("NEW_KEY=1", typed="userhub_admin_typed\n")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], "userhub_admin_typed")

    def test_asks_for_the_key_alone_and_does_not_show_it(self):
        command = ["make", "deploy", f"USER_POOL_ID={self.pool}", f"ZIP={BUILT}", f"PARAMETERS={LACKING}"]
        said, code = talk(command, ROOT, self.environment, {"API": KEY})
        self.assertEqual(code, 0, said)
        self.assertEqual(said.count("(not shown)"), 1, said)
        self.assertNotIn(KEY, said)
        self.assertEqual(self.variables(), {"USERHUB_ADMIN_KEY": KEY})
        self.assertIn(f'make deploy USER_POOL_ID={self.pool} ZIP={BUILT} PARAMETERS="ConnectionId=conn_…"', said)

    def test_takes_the_key_from_standard_input_or_a_secret(self):
        self.deploy(typed=f"{KEY}\n")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], KEY)
        secret = self.aws.client("secretsmanager").create_secret(Name="key", SecretString='{"key":"userhub_admin_2"}')
        self.deploy(f"PARAMETERS=AdminKeySecretArn={secret['ARN']} AdminKeySecretJsonKey=key")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], "userhub_admin_2")
        self.assertIn("There is no Admin API key", self.deploy("FUNCTION=other", code=1))
        for key in ["'quoted'", '{"key":"userhub_admin_2"}', "two words"]:
            self.assertIn("The Admin API key must be", self.deploy("FUNCTION=other", key=key, code=1))

    def test_refuses_what_would_make_cloudformation_replace_what_the_pool_calls(self):
        self.deploy(key=KEY)
        other = self.new_pool()
        printed = self.deploy(f"USER_POOL_ID={other}", code=1)
        self.assertIn(f"for UserPoolId={self.pool}", printed)
        self.assertIn("FUNCTION=userhub-signin-2", printed)
        self.deploy(f"USER_POOL_ID={other}", "FUNCTION=userhub-signin-2", key=KEY)
        self.assertEqual(self.function("userhub-signin-2")["State"], "Active")
        for name in ["UserPoolId", "FunctionName", "Architecture", "AdminKey"]:
            self.assertIn(f"PARAMETERS: {'the key' if name == 'AdminKey' else name}",
                          self.deploy(f"PARAMETERS={name}=arm64", code=1))

    def test_refuses_a_function_that_no_stack_owns(self):
        self.aws.client("lambda").create_function(
            FunctionName="userhub-signin", Runtime="provided.al2023", Role="arn:aws:iam::123456789012:role/role",
            Handler="bootstrap", Code={"ZipFile": BUILT.read_bytes()})
        self.assertIn("cargo lambda deploy may have made it", self.deploy(key=KEY, code=1))

    def test_refuses_a_stack_that_cannot_be_updated(self):
        class Options:
            user_pool_id, function = "eu-west-1_AbCd12345", "userhub-signin"

        values = {"UserPoolId": Options.user_pool_id, "FunctionName": Options.function, "AdminKey": "****"}
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
        found = {"StackName": "userhub-signin", "Parameters": parameters}
        for status, text in [("ROLLBACK_COMPLETE", f"make remove USER_POOL_ID={Options.user_pool_id}"),
                             ("DELETE_FAILED", "remove it, then deploy again"),
                             ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback"),
                             ("UPDATE_IN_PROGRESS", "wait until that has ended")]:
            with self.assertRaisesRegex(Refusal, text):
                stack.refuse_stack({**found, "StackStatus": status}, Options, "eu-west-1")
        stack.refuse_stack({**found, "StackStatus": "UPDATE_ROLLBACK_COMPLETE"}, Options, "eu-west-1")

    def test_leaves_another_stack_alone(self):
        cloudformation = self.aws.client("cloudformation")
        cloudformation.create_stack(StackName="accounts", EnableTerminationProtection=True, TemplateBody=json.dumps(
            {"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "kept"}}}}))
        for printed in [self.deploy("FUNCTION=accounts", key=KEY, code=1),
                        self.make("remove", "FUNCTION=accounts", code=1)]:
            self.assertIn("The stack accounts in eu-west-1 is not this function's", printed)
        [found] = cloudformation.describe_stacks(StackName="accounts")["Stacks"]
        self.assertTrue(found["EnableTerminationProtection"])
        self.assertEqual(len(self.aws.client("sqs").list_queues()["QueueUrls"]), 1)

    def test_says_that_a_broken_binary_must_not_be_attached(self):
        broken = pathlib.Path(self.folder.name, "broken.zip")
        broken.write_bytes(zip_with(pathlib.Path("/bin/false").read_bytes()))
        printed = self.make("deploy", f"ZIP={broken}", f"PARAMETERS={LACKING}", key=KEY, code=1)
        self.assertIn("Do not attach the function", printed)

    def test_a_rule_of_the_template_refuses_with_its_sentence(self):
        printed = self.deploy("PARAMETERS=ExtraCaCerts=/opt/ca.pem", key=KEY, code=1)
        self.assertIn("Give both ExtraCaCerts and ExtraCaCertsLayerArn", printed)

    def test_removes_the_stack_unless_the_pool_calls_the_function(self):
        self.assertIn("There is no stack userhub-signin", self.make("remove", code=1))
        self.deploy(key=KEY)
        arn = self.function()["FunctionArn"]
        cognito = self.aws.client("cognito-idp")
        for trigger_name, calling in [
            ("PostConfirmation", arn), ("PostConfirmation", f"{arn}:live"), ("PreSignUp", arn)
        ]:
            cognito.update_user_pool(UserPoolId=self.pool, LambdaConfig={trigger_name: calling})
            printed = self.make("remove", code=1)
            self.assertIn(f"calls the function ({trigger_name})", printed)
            self.assertIn(f"make detach USER_POOL_ID={self.pool}\n", printed)
        self.assertIn("as PreSignUp, where it reports nothing", self.make("detach", code=1))
        cognito.update_user_pool(UserPoolId=self.pool, LambdaConfig={})
        # A second pool, as `make attach` advises.
        other = self.new_pool()
        other_arn = f"arn:aws:cognito-idp:{REGION}:123456789012:userpool/{other}"
        self.aws.client("lambda").add_permission(
            FunctionName="userhub-signin", StatementId="other", Action="lambda:InvokeFunction",
            Principal="cognito-idp.amazonaws.com", SourceArn=other_arn, SourceAccount="123456789012")
        cognito.update_user_pool(UserPoolId=other, LambdaConfig={"PostAuthentication": arn})
        self.assertIn(f"{other} calls the function", self.make("remove", code=1))
        cognito.update_user_pool(UserPoolId=other, LambdaConfig={})
        # As `make attach` leaves it.
        cloudformation = self.aws.client("cloudformation")
        pool_arn = f"arn:aws:cognito-idp:{REGION}:123456789012:userpool/{self.pool}"
        function = Function(AwsOf(self.aws.url), "userhub-signin", pool_arn)
        trigger.protect_stack(function, function)
        [found] = cloudformation.describe_stacks(StackName="userhub-signin")["Stacks"]
        self.assertTrue(found["EnableTerminationProtection"])
        self.assertIn("what is left", self.make("remove"))
        self.assertEqual(self.aws.client("lambda").list_functions()["Functions"], [])


class AwsOf(AwsCli):
    """The AWS CLI against an emulator, in this process."""

    def __init__(self, url):
        super().__init__(REGION)
        self.url = url

    def with_log(self, *arguments):
        with unittest.mock.patch.dict(os.environ, {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}):
            return super().with_log(*arguments)


class Input(unittest.TestCase):
    def test_refuses_a_zip_that_lambda_could_not_run(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "code.zip")
            elf = pathlib.Path("/bin/true").read_bytes()
            for content, text in [
                (b"not a zip", "is not a zip"),
                (zip_with(elf, name="main"), "has no file bootstrap"),
                (zip_with(b""), "not a program for x86-64 or arm64"),
                (zip_with(b"#!/bin/sh\n"), "not a program for x86-64 or arm64"),
                (zip_with(elf[:18] + b"\x28\x00" + elf[20:]), "not a program for x86-64 or arm64"),  # 32-bit ARM
                (zip_with(elf, mode=0o644), "is not executable"),
            ]:
                path.write_bytes(content)
                with self.assertRaisesRegex(Refusal, text):
                    Package(path)
            with self.assertRaisesRegex(Refusal, "There is no file"):
                Package(pathlib.Path(folder, "none.zip"))
            for machine, architecture in [(b"\x3e\x00", "x86_64"), (b"\xb7\x00", "arm64")]:
                path.write_bytes(zip_with(elf[:18] + machine + elf[20:]))
                self.assertEqual(Package(path).architecture, architecture)

    def test_knows_the_templates_parameters_as_yaml_does(self):
        text = (ROOT / "template.yaml").read_text()
        found, expected = template.parameters(text), yaml_parse(text)["Parameters"]
        self.assertEqual(list(found), list(expected))
        for name, parameter in expected.items():
            self.assertEqual(found[name].values, [str(value) for value in parameter.get("AllowedValues", [])], name)
            self.assertEqual(found[name].pattern, parameter.get("AllowedPattern"), name)
            self.assertEqual(found[name].constraint, parameter.get("ConstraintDescription", ""), name)
            self.assertEqual(found[name].minimum, str(parameter["MinValue"]) if "MinValue" in parameter else None, name)

    def test_checks_parameters_before_anything_is_sent(self):
        known = template.parameters((ROOT / "template.yaml").read_text())
        self.assertEqual(template.parse("", known), {})
        several = " ConnectionId=conn_1  PortalIdentityProviders=COGNITO,My SAML LogLevel=WARN"
        self.assertEqual(template.parse(several, known),
                         {"ConnectionId": "conn_1", "PortalIdentityProviders": "COGNITO,My SAML", "LogLevel": "WARN"})
        self.assertEqual(template.parse("BaseUrl=", known), {"BaseUrl": ""})
        for text, problem in [
            ("ConnectionID=conn_1", "there is no parameter ConnectionID"),
            ("conn_1", "conn_1 is not Name=value"),
            ("ConnectionId=conn 1", "ConnectionId must be a connection id"),
            ("Report=never", "Report must be one of before-response, after-response"),
            ("NotReportedThreshold=0", "NotReportedThreshold must be a number of at least 1"),
            ("BaseUrl=http://example.com", "BaseUrl must be an https:// URL"),
            ("AdminKey=x", "the key would be in your shell's history"),
        ]:
            with self.assertRaisesRegex(Refusal, problem):
                template.parse(text, known)


class CargoLambda(unittest.TestCase):
    def test_cargo_lambda_deploys_the_same_function(self):
        self.aws = Aws()
        self.addCleanup(self.aws.stop)
        environment = {"AWS_ENDPOINT_URL": self.aws.url, "AWS_REGION": REGION}
        run("make", "build")
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
            file.flush()
            run("cargo", "lambda", "deploy", "--env-file", file.name, "userhub-signin", environment=environment)
        function = aws(self.aws.url, "lambda", "get-function-configuration", "--function-name", "userhub-signin")
        self.assertEqual(function["Environment"]["Variables"], SETTINGS)
        planned = yaml_parse((ROOT / "template.yaml").read_text())["Resources"]["Function"]["Properties"]
        for name in ["Runtime", "Handler", "MemorySize", "Timeout"]:
            self.assertEqual(function[name], planned[name], name)
        [group] = aws(self.aws.url, "logs", "describe-log-groups")["logGroups"]
        self.assertEqual((group["logGroupName"], group["retentionInDays"]), ("/aws/lambda/userhub-signin", 30))
