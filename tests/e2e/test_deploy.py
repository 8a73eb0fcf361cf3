"""`connect`, `deploy` and `remove` as a person runs them, against an emulator of CloudFormation and Lambda that runs
the function's binary; and `cargo lambda deploy`."""

import io
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest
import zipfile

from program import Case, pool_arn
from samtranslator.yaml_helper import yaml_parse
from support import ACCOUNT, REGION, ROOT, SETTINGS, Aws, GuardedMinistack, aws, run, talk
from werkzeug.wrappers import Response

sys.path.insert(0, str(ROOT / "ops"))
import stack  # noqa: E402
from errors import Refusal  # noqa: E402
from package import Package  # noqa: E402

KEY = SETTINGS["USERHUB_ADMIN_KEY"]
CONNECTION = ["--connection-id", SETTINGS["AMAZON_COGNITO_CONNECTION_ID"]]
BUILT = ROOT / "target/lambda/userhub-signin/bootstrap.zip"
GROUP = "/aws/lambda/userhub-signin"


def zip_with(content, name="bootstrap", mode=0o755):
    """A zip with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, content)
    return file.getvalue()


def another_zip(comment=b"another"):
    """The function, in other bytes."""
    file = io.BytesIO(BUILT.read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = comment
    return file.getvalue()


class Ministack(Case):
    @classmethod
    def setUpClass(cls):
        run("make", "build")
        cls.aws = GuardedMinistack()
        cls.addClassCleanup(cls.aws.stop)
        cls.cognito, cls.functions, cls.cloudformation, cls.logs, cls.sqs = (cls.aws.client(service) for service in [
            "cognito-idp", "lambda", "cloudformation", "logs", "sqs"])

    def setUp(self):
        self.pool = self.new_pool()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.addCleanup(self.tidy_up)

    def tidy_up(self):
        """The emulator serves all tests of a class, because it takes long to start."""
        self.aws.instead.clear()
        self.aws.also.clear()
        for pool in self.cognito.list_user_pools(MaxResults=60)["UserPools"]:
            self.cognito.delete_user_pool(UserPoolId=pool["Id"])
        for found in self.cloudformation.describe_stacks()["Stacks"]:
            self.cloudformation.update_termination_protection(StackName=found["StackName"],
                                                              EnableTerminationProtection=False)
            self.cloudformation.delete_stack(StackName=found["StackName"])
        for function in self.functions.list_functions()["Functions"]:
            self.functions.delete_function(FunctionName=function["FunctionName"])
        for group in self.logs.describe_log_groups()["logGroups"]:
            self.logs.delete_log_group(logGroupName=group["logGroupName"])
        for queue in self.sqs.list_queues().get("QueueUrls", []):
            self.sqs.delete_queue(QueueUrl=queue)

    def new_pool(self):
        return self.cognito.create_user_pool(PoolName="pool")["UserPool"]["Id"]

    def file(self, content):
        path = self.folder / f"{time.monotonic_ns()}.zip"
        path.write_bytes(content)
        return path

    def deploy(self, *options, key=None, zip_file=BUILT, **how):
        """What deploy prints, with the connection's id and the key for a new stack."""
        return self.program("deploy", "--zip", str(zip_file), *options,
                            environment={"USERHUB_ADMIN_KEY": key} if key else {}, **how)

    def deploy_new(self, *options, **how):
        return self.deploy(*CONNECTION, *options, key=KEY, **how)

    def configuration(self, name="userhub-signin"):
        return self.functions.get_function_configuration(FunctionName=name)

    def variables(self, name="userhub-signin"):
        return self.configuration(name)["Environment"]["Variables"]

    def names(self):
        return {function["FunctionName"] for function in self.functions.list_functions()["Functions"]}

    def set_trigger(self, pool, **triggers):
        self.cognito.update_user_pool(UserPoolId=pool, LambdaConfig=triggers)

    def arn(self, name="userhub-signin"):
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


class Deploy(Ministack):
    def test_deploys_the_very_zip_and_checks_it(self):
        before = set(ROOT.iterdir())
        arguments, environment = self.recorded()
        self.environment = {**environment, "TMPDIR": str(self.folder)}
        printed = self.deploy_new()
        self.assertIn("checked     userhub-signin returned a token refresh unchanged", printed)
        self.assertRegex(printed, f"ops smoke {self.pool} --user .*\n.*\n.*ops attach {self.pool}\n")
        function = self.configuration()
        variables = function["Environment"]["Variables"]
        self.assertRegex(variables.pop("USERHUB_QUEUE_URL"), "/userhub-signin$")
        self.assertEqual(variables, SETTINGS)
        package = Package.read(BUILT)
        self.assertEqual((function["CodeSize"], function["CodeSha256"]), (len(package.content), package.code_sha256))
        self.assertIn(package.sha256, function["Description"])
        self.assertIn(package.sha256, printed)
        self.assertEqual(set(ROOT.iterdir()), before, "no file stays")
        self.assertEqual(os.listdir(self.folder), [], "no file stays")
        self.assertNotIn(KEY, arguments.read_text(), "arguments are in the process list")

        # What is not named keeps its value, and what was deployed is not deployed again.
        self.deploy("--parameter", "ReportVia=queue", "--tag", "team=accounts")
        self.assertEqual(self.variables()["USERHUB_REPORT_VIA"], "queue")
        self.assertEqual(self.variables("userhub-signin-queue"), SETTINGS)
        [found] = self.cloudformation.describe_stacks(StackName="userhub-signin")["Stacks"]
        self.assertEqual(found["Tags"], [{"Key": "team", "Value": "accounts"}])
        self.assertIn("nothing to change", self.deploy())
        self.deploy("--parameter", "ReportVia=direct", key="userhub_admin_new")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], "userhub_admin_new")
        self.deploy("--new-key", typed="userhub_admin_typed\n")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], "userhub_admin_typed")

    def test_asks_for_the_key_alone_and_does_not_show_it(self):
        command = ["python3", str(ROOT / "ops"), "deploy", self.pool, "--zip", str(BUILT), *CONNECTION]
        said, code = talk(command, ROOT, {"AWS_ENDPOINT_URL": self.aws.url}, {"API": KEY})
        self.assertEqual(code, 0, said)
        self.assertEqual(said.count("(not shown)"), 1, said)
        self.assertIn("Integrations: Amazon Cognito", said)
        self.assertNotIn(KEY, said)
        self.assertNotIn("\x1b", said)
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], KEY)

    def test_takes_the_key_from_standard_input_or_a_secret(self):
        self.deploy(*CONNECTION, typed=f"{KEY}\n")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], KEY)
        secret = self.aws.client("secretsmanager").create_secret(Name="key", SecretString='{"key":"userhub_admin_2"}')
        self.deploy("--parameter", f"AdminKeySecretArn={secret['ARN']}", "--parameter", "AdminKeySecretJsonKey=key")
        self.assertEqual(self.variables()["USERHUB_ADMIN_KEY"], "userhub_admin_2")
        other = ["--name", "other", *CONNECTION]
        self.assertIn("There is no Admin API key", self.deploy(*other, code=1))
        for key in ["'quoted'", '{"key":"userhub_admin_2"}', "two words"]:
            self.assertIn("The Admin API key consists of", self.deploy(*other, key=key, code=1))
        self.assertEqual(self.names(), {"userhub-signin", "userhub-signin-queue"})

    def test_make_builds_and_deploys(self):
        printed = run("make", "deploy", f"ARGS={self.pool} {' '.join(CONNECTION)} --tag 'team=two words'", environment={
            "AWS_ENDPOINT_URL": self.aws.url, "USERHUB_ADMIN_KEY": KEY}).stdout
        self.assertIn(f"python3 ops attach {self.pool}\n", printed)
        [found] = self.cloudformation.describe_stacks(StackName="userhub-signin")["Stacks"]
        self.assertEqual(found["Tags"], [{"Key": "team", "Value": "two words"}])

    def test_a_new_function_that_cannot_start_is_not_to_be_attached(self):
        broken = self.file(zip_with(pathlib.Path("/bin/false").read_bytes()))
        printed = self.deploy_new(zip_file=broken, code=1)
        self.assertIn("No user pool calls it. Do not attach it.", printed)
        self.program("attach", code=1)
        self.deploy()  # a good one mends it

    def test_everything_is_checked_before_the_key_is_asked_for(self):
        """Without a key on standard input: whoever asked for it would say that there is none."""
        for printed, text in [
            (self.deploy(code=1), "say --connection-id conn_"),
            (self.deploy(*CONNECTION, pool="eu-west-1_Nobody", code=1), "There is no user pool eu-west-1_Nobody"),
            (self.deploy(*CONNECTION, "--architecture", "arm64", code=1), "is for x86_64, not for arm64"),
            (self.deploy(*CONNECTION, "--bucket", "nobodys", code=1), "There is no bucket nobodys"),
            (self.deploy(*CONNECTION, zip_file=self.folder / "none.zip", code=1), "There is no file"),
        ]:
            self.assertIn(text, printed)
        for name, text in [("AdminKey", "in your shell's history"), ("UserPoolId", "the pool you name"),
                           ("CodeKey", "the zip decides"), ("FunctionName", "say --name")]:
            self.assertIn(text, self.deploy(*CONNECTION, "--parameter", f"{name}=x", code=1))
        self.assertIn("is not NAME=VALUE", self.deploy(*CONNECTION, "--parameter", "x", code=2))

    def test_names_that_something_else_has_are_named_before_the_key_is_asked_for(self):
        self.logs.create_log_group(logGroupName=f"{GROUP}-queue")
        url = self.sqs.create_queue(QueueName="userhub-signin-given-up")["QueueUrl"]
        self.sqs.create_queue(QueueName="userhub-signin-of-others")
        printed = self.deploy(*CONNECTION, code=1)
        self.assertIn(f"aws logs delete-log-group --region {REGION} --log-group-name {GROUP}-queue\n", printed)
        self.assertIn(f"--queue-url {url}\n", printed)
        self.assertNotIn("of-others", printed)
        for line in printed.splitlines()[1:]:  # as it says
            option = ["--endpoint-url", self.aws.url] if " sqs " in line else []
            run(*line.split(), *option, environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.deploy_new()

    def test_a_value_that_the_template_refuses_changes_nothing(self):
        printed = self.deploy_new("--parameter", "ReportVia=queue", "--parameter", "Queue=no", code=1)
        self.assertIn("With ReportVia=queue every report goes through the queue, so set Queue to yes", printed)
        self.assertIn("ReportVia", self.deploy_new("--parameter", "ReportVia=never", code=1))
        self.assertEqual((self.names(), self.stacks()), (set(), set()))
        self.deploy_new()

    def stacks(self):
        return {found["StackName"] for found in self.cloudformation.describe_stacks()["Stacks"]
                if found["StackStatus"] != "DELETE_COMPLETE"}

    def test_refuses_what_would_make_cloudformation_replace_what_the_pool_calls(self):
        self.deploy_new()
        other = self.new_pool()
        printed = self.deploy_new(pool=other, code=1)
        self.assertIn(f"is for the user pool {self.pool}", printed)
        self.assertIn("another name with --name", printed)
        self.deploy_new("--name", "userhub-signin-2", pool=other)
        self.assertEqual(self.configuration("userhub-signin-2")["State"], "Active")

    def test_refuses_a_function_that_no_stack_owns(self):
        self.functions.create_function(
            FunctionName="userhub-signin", Runtime="provided.al2023", Role=f"arn:aws:iam::{ACCOUNT}:role/role",
            Handler="bootstrap", Code={"ZipFile": BUILT.read_bytes()})
        self.assertIn("cargo lambda deploy may have made it", self.deploy(*CONNECTION, code=1))

    def test_leaves_other_stacks_alone(self):
        queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "kept"}}
        self.cloudformation.create_stack(StackName="accounts", EnableTerminationProtection=True,
                                         TemplateBody=json.dumps({"Resources": {"Queue": queue}}))
        for printed in [self.deploy_new("--name", "accounts", code=1),
                        self.program("remove", "--name", "accounts", code=1)]:
            self.assertIn("The stack accounts is not this program's, and is left alone", printed)
        [found] = self.cloudformation.describe_stacks(StackName="accounts")["Stacks"]
        self.assertTrue(found["EnableTerminationProtection"])
        self.assertEqual(len(self.sqs.list_queues()["QueueUrls"]), 1)

    def test_what_an_earlier_attempt_left_is_deleted_first(self):
        values = {"UserPoolId": self.pool, "FunctionName": "userhub-signin", "AdminKey": "x"}
        self.cloudformation.create_stack(
            StackName="userhub-signin", Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
            TemplateBody=json.dumps({"Parameters": dict.fromkeys(values, {"Type": "String"}), "Resources": {}}))
        self.pretend("ROLLBACK_COMPLETE")
        printed = self.deploy_new()
        self.assertIn("what an earlier attempt left of the stack userhub-signin (ROLLBACK_COMPLETE)", printed)
        self.assertEqual(self.names(), {"userhub-signin", "userhub-signin-queue"})

    def pretend(self, status, once=True):
        """Lets CloudFormation say that a stack has another status, until it is deleted."""
        def changed(body):
            if not once or "DeleteStack" not in self.aws.calls:
                found = self.aws.emulated()
                found.set_data(found.get_data(as_text=True).replace("CREATE_COMPLETE", status))
                return found
            return None

        self.aws.calls.clear()
        self.aws.instead["DescribeStacks"] = changed

    # The live function.

    def attach_to(self, pool):
        self.set_trigger(pool, PostAuthentication=self.arn())

    def test_a_zip_that_cannot_start_never_reaches_a_function_that_exists(self):
        self.deploy_new()
        self.attach_to(self.pool)
        sha256 = self.configuration()["CodeSha256"]
        broken = self.file(zip_with(pathlib.Path("/bin/false").read_bytes()))
        printed = self.deploy(zip_file=broken, code=1)
        self.assertIn("The new zip was tried as userhub-signin-trial, and it returned", printed)
        self.assertIn("userhub-signin was not changed", printed)
        self.assertEqual(self.configuration()["CodeSha256"], sha256)
        self.assertEqual(self.names(), {"userhub-signin", "userhub-signin-queue"})
        for operation, code in [("Invoke", "AccessDeniedException"),
                                ("/2015-03-31/functions", "AccessDeniedException")]:
            self.aws.refuse(operation, code, status=403)
            self.assertIn("These credentials lack a permission", self.deploy(zip_file=broken, code=1))
            del self.aws.instead[operation]
        self.assertEqual(self.configuration()["CodeSha256"], sha256)
        self.assertEqual(self.names(), {"userhub-signin", "userhub-signin-queue"})

        created = []
        self.aws.instead["/2015-03-31/functions"] = created.append
        printed = self.deploy("--tag", "team=accounts", zip_file=self.file(another_zip()))
        self.assertIn("the new zip, as userhub-signin-trial: it returned a token refresh unchanged", printed)
        self.assertEqual(json.loads(created[0])["Tags"], {"team": "accounts"})
        self.assertNotEqual(self.configuration()["CodeSha256"], sha256)
        self.assertEqual(self.names(), {"userhub-signin", "userhub-signin-queue"})

    def test_a_trial_is_deleted_whatever_happens(self):
        self.deploy_new()
        another = str(self.file(another_zip()))
        # One that an earlier attempt left is taken for the same; one of somebody else's is not.
        for description, code in [("Tries a new zip before userhub-signin gets it; can be deleted", 0), ("mine", 1)]:
            self.functions.create_function(
                FunctionName="userhub-signin-trial", Runtime="provided.al2023", Handler="bootstrap",
                Role=f"arn:aws:iam::{ACCOUNT}:role/role", Code={"ZipFile": BUILT.read_bytes()}, Description=description)
            self.deploy(zip_file=another if not code else BUILT, code=code)
        self.assertIn("userhub-signin-trial", self.names())

    def test_an_interruption_at_any_step_leaves_a_function_that_works(self):
        self.deploy_new()
        self.attach_to(self.pool)
        event = (ROOT / "events/post-authentication.json").read_bytes()
        event = json.dumps({**json.loads(event), "triggerSource": "TokenGeneration_RefreshTokens"}).encode()
        step, calls = 2, 100
        while calls >= step:
            step += 4
            another = self.file(another_zip(f"{step}".encode()))
            said, code, calls = self.interrupt(step, "deploy", "--zip", str(another))
            self.assertIn(code, [130, 0] if calls >= step else [0], said)  # 0 if it was deleting the trial
            self.assertEqual(self.names(), {"userhub-signin", "userhub-signin-queue"}, said)
            answer = self.functions.invoke(FunctionName="userhub-signin", Payload=event)["Payload"].read()
            self.assertEqual(answer, event)
            self.cloudformation.get_waiter("stack_exists").wait(StackName="userhub-signin")
        self.assertGreater(step, 14)
        self.assertEqual(self.configuration()["CodeSha256"], Package.read(another).code_sha256)

    def test_a_live_function_that_fails_after_a_deployment_names_every_caller_and_the_way_back(self):
        self.deploy_new()
        others = [self.new_pool(), self.new_pool()]
        alias = {"LambdaVersion": "V1_0", "LambdaArn": f"{self.arn()}:live"}
        self.set_trigger(others[1], PreTokenGenerationConfig=alias)
        self.aws.instead["Invoke"] = lambda body: Response(b"{}")
        printed = self.deploy("--parameter", "NotReportedThreshold=2", code=1)
        self.assertRegex(printed, f"Sign-ins fail in {others[1]}. This restores sign-in:\n.* detach {others[1]}\n")
        self.assertNotIn("Do not attach", printed)
        self.set_trigger(others[1])
        self.assertIn("No user pool calls it. Do not attach it.", self.deploy(code=1))

    def test_an_update_that_fails_looks_at_the_live_function_and_says_why(self):
        self.deploy_new()
        self.attach_to(self.pool)
        self.logs.create_log_group(logGroupName="unrelated")
        self.fail_with("LogGroup", "the retention is not allowed here")
        printed = self.deploy("--parameter", "LogRetentionInDays=7", code=1)
        self.assertIn("did not deploy the stack userhub-signin: it is UPDATE_ROLLBACK_COMPLETE", printed)
        self.assertIn("LogGroup (physical): the retention is not allowed here", printed)
        self.assertIn("userhub-signin returned a token refresh unchanged", printed)
        self.aws.instead["Invoke"] = lambda body: Response(b"{}")
        printed = self.deploy("--parameter", "LogRetentionInDays=14", code=1)
        self.assertRegex(printed, f"Sign-ins fail in {self.pool}. This restores sign-in:\n.* detach {self.pool}\n")

    def fail_with(self, resource, reason):
        """Lets CloudFormation say that what it did failed, and why."""
        def events(body):
            member = "<member><ResourceStatus>{}</ResourceStatus><LogicalResourceId>{}</LogicalResourceId>" \
                "<PhysicalResourceId>physical</PhysicalResourceId><ResourceStatusReason>{}</ResourceStatusReason></member>"
            return Response(
                "<DescribeStackEventsResponse><DescribeStackEventsResult><StackEvents>"
                + member.format("UPDATE_FAILED", "Other", "Resource update cancelled")
                + member.format("UPDATE_FAILED", resource, reason)
                + member.format("UPDATE_IN_PROGRESS", "userhub-signin", "User Initiated")
                + member.format("UPDATE_FAILED", "Role", "long ago")
                + "</StackEvents></DescribeStackEventsResult></DescribeStackEventsResponse>", content_type="text/xml")

        def failed(body):
            if "ExecuteChangeSet" in self.aws.calls:
                found = self.aws.emulated()
                found.set_data(found.get_data(as_text=True).replace(">UPDATE_COMPLETE", ">UPDATE_ROLLBACK_COMPLETE"))
                return found
            return None

        self.aws.calls.clear()
        self.aws.instead |= {"DescribeStackEvents": events, "DescribeStacks": failed}

    def test_a_queue_with_reports_in_it_is_not_given_up(self):
        self.deploy_new()
        self.functions.update_event_source_mapping(
            UUID=self.functions.list_event_source_mappings(FunctionName="userhub-signin-queue")[
                "EventSourceMappings"][0]["UUID"], Enabled=False)
        self.sqs.send_message(QueueUrl=self.variables()["USERHUB_QUEUE_URL"], MessageBody="{}")
        for printed in [self.deploy("--parameter", "Queue=no", code=1), self.program("remove", code=1)]:
            self.assertIn("1 reports wait for UserHub and 0 were given up; they would be lost", printed)
        self.deploy("--parameter", "Queue=no", "--discard-reports")
        self.assertEqual(self.names(), {"userhub-signin"})

    # Its end.

    def test_removes_the_stack_unless_a_pool_calls_the_function(self):
        self.assertIn("There is no stack userhub-signin", self.program("remove", code=1))
        self.deploy_new()
        others = [self.new_pool() for _ in range(3)]
        for pool, triggers in [
            (self.pool, {"PostConfirmation": self.arn()}), (self.pool, {"PreSignUp": self.arn()}),
            (others[2], {"PostAuthentication": f"{self.arn()}:live"}),
            (others[1], {"PreTokenGenerationConfig": {"LambdaVersion": "V1_0", "LambdaArn": f"{self.arn()}:3"}}),
        ]:
            self.set_trigger(pool, **triggers)
            printed = self.program("remove", code=1)
            self.assertIn(f"{pool} calls the function, so every sign-in there would fail", printed)
            self.program("detach", pool=pool)
            self.assertEqual(self.cognito.describe_user_pool(UserPoolId=pool)["UserPool"].get("LambdaConfig", {}), {})
        self.aws.refuse("DescribeUserPool", "AccessDeniedException")
        self.assertIn("These credentials lack a permission", self.program("remove", code=1))
        del self.aws.instead["DescribeUserPool"]
        self.program("remove")
        self.assertEqual((self.names(), self.stacks()), (set(), set()))

    def test_what_userhub_uses_in_a_stack_of_version_0_1_0_stays(self):
        self.deploy_new()

        def older(body):
            found = self.aws.emulated()
            text = found.get_data(as_text=True).replace("AWS::SQS::QueuePolicy", "AWS::Cognito::UserPoolClient")
            found.set_data(text)
            return found

        self.aws.instead["DescribeStackResources"] = older
        self.assertIn("which UserHub's connection and Portal use", self.program("remove", code=1))
        self.program("remove", "--force")

    def test_attach_protects_the_stack_and_only_that_is_lifted(self):
        self.deploy_new()
        protection = {"StackName": "userhub-signin", "EnableTerminationProtection": True}
        self.cloudformation.update_termination_protection(**protection)
        self.program("attach")
        self.program("detach")
        self.assertTrue(self.protected(), "somebody else's")
        self.assertIn("Somebody else has protected the stack", self.program("remove", code=1))
        self.cloudformation.update_termination_protection(**{**protection, "EnableTerminationProtection": False})
        self.aws.refuse("UpdateUserPool", "InvalidParameterException")
        self.program("attach", code=1)
        self.assertFalse(self.protected(), "only once it has worked")
        del self.aws.instead["UpdateUserPool"]
        self.assertIn("protected   the stack", self.program("attach"))
        self.assertTrue(self.protected())
        other = self.new_pool()
        self.set_trigger(other, PreSignUp=self.arn())
        self.assertIn(f"stays protected from deletion: {other} calls it, too", self.program("detach"))
        self.assertTrue(self.protected())
        self.set_trigger(other)
        self.program("attach")
        self.program("detach")
        self.assertFalse(self.protected())
        self.cognito.delete_user_pool(UserPoolId=self.pool)
        self.program("remove")

    def protected(self):
        [found] = self.cloudformation.describe_stacks(StackName="userhub-signin")["Stacks"]
        return found["EnableTerminationProtection"]

    def test_attach_refuses_a_second_pool(self):
        self.deploy_new()
        other = self.new_pool()
        self.functions.add_permission(
            FunctionName="userhub-signin", StatementId="other", Action="lambda:InvokeFunction",
            Principal="cognito-idp.amazonaws.com", SourceArn=pool_arn(other), SourceAccount=ACCOUNT)
        printed = self.program("attach", pool=other, code=1)
        self.assertIn(f"is for the user pool {self.pool}", printed)
        self.assertEqual(self.cognito.describe_user_pool(UserPoolId=other)["UserPool"].get("LambdaConfig", {}), {})


class Connect(Ministack):
    def values(self, name="userhub-signin-connection"):
        [found] = self.cloudformation.describe_stacks(StackName=name)["Stacks"]
        return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in found["Parameters"]}

    def test_makes_what_the_connection_needs_and_says_where_each_value_goes(self):
        printed = self.program("connect", "--tag", "team=accounts")
        [user] = self.aws.client("iam").list_users()["Users"]
        self.assertIn("userhub-signin-connection", user["UserName"])
        self.assertIn(f"User pool id    {self.pool}\n", printed)
        self.assertIn("CloudTrail", printed)
        self.assertRegex(printed, f"ops deploy {self.pool} --connection-id conn_…")
        command = next(line for line in printed.splitlines() if "get-secret-value" in line).split()
        key = json.loads(run(*command, environment={"AWS_ENDPOINT_URL": self.aws.url}).stdout)
        self.assertEqual(set(key), {"accessKeyId", "secretAccessKey"})
        for value in key.values():
            self.assertNotIn(value, printed)
        self.assertEqual(self.values()["Access"], "manage")
        self.assertIn("nothing to change", self.program("connect"))
        other = self.new_pool()
        self.assertIn(f"is for the user pool {self.pool}", self.program("connect", pool=other, code=1))
        self.program("connect", "--access", "read", "--name", "second", pool=other)
        self.assertEqual(self.values("second-connection")["Access"], "read")

    def assert_portal(self, both):
        values = self.values()
        self.assertEqual((values["PortalManagedLogin"], values["PortalChoiceBasedSignIn"]), (both, both))

    def test_finds_out_what_the_portal_needs(self):
        portal = ["--portal-domain", "portal.example.com"]
        self.assertIn("the user pool has no domain", self.program("connect", *portal))
        self.assert_portal("no")

        def describe(answer):
            answer["UserPool"] |= {"Domain": "accounts", "Policies": {"SignInPolicy": {
                "AllowedFirstAuthFactors": ["PASSWORD", "WEB_AUTHN"]}}}
            return answer

        self.aws.also["DescribeUserPool"] = describe
        self.aws.instead["DescribeUserPoolDomain"] = lambda body: Response(json.dumps(
            {"DomainDescription": {"Domain": "accounts", "ManagedLoginVersion": 2}}))
        printed = self.program("connect")  # the domain stays
        self.assertRegex(printed, r"Client id       \w+\n")
        self.assertIn(f"https://cognito-idp.{REGION}.amazonaws.com/{self.pool}", printed)
        self.assert_portal("yes")


class Stacks(unittest.TestCase):
    def test_what_somebody_uses_is_neither_deleted_nor_replaced(self):
        def change(name, kind, action, replacement=None):
            return {"LogicalResourceId": name, "ResourceType": kind, "Action": action, "Replacement": replacement}

        stack.refuse_loss([change("Function", "AWS::Lambda::Function", "Modify", "False"),
                           change("QueueFunction", "AWS::Lambda::Function", "Remove")], False)
        for lost in [change("Function", "AWS::Lambda::Function", "Modify", "True"),
                     change("ConnectionIamUser", "AWS::IAM::User", "Remove")]:  # of a stack of version 0.1.0
            with self.assertRaisesRegex(Refusal, "say --force"):
                stack.refuse_loss([lost], False)
            stack.refuse_loss([lost], True)

    def test_a_stack_that_cannot_be_changed_now_says_what_to_do(self):
        values = [{"ParameterKey": "UserPoolId", "ParameterValue": "eu-west-1_AbCd12345"}]
        found = {"StackName": "userhub-signin", "Parameters": values}
        for status, text in [("ROLLBACK_FAILED", "remove it, then deploy again"),
                             ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback"),
                             ("UPDATE_IN_PROGRESS", "wait until that has ended")]:
            with self.assertRaisesRegex(Refusal, text):
                stack.refuse_busy({**found, "StackStatus": status}, REGION, False)
        stack.refuse_busy({**found, "StackStatus": "UPDATE_ROLLBACK_COMPLETE"}, REGION, False)
        nested = {**found, "StackStatus": "CREATE_COMPLETE", "ParentId": "arn:aws:cloudformation:…:stack/accounts/x"}
        with self.assertRaisesRegex(Refusal, "is part of accounts: deploy and remove it with that"):
            stack.refuse_foreign(nested, {"UserPoolId"})
        with self.assertRaisesRegex(Refusal, r"is for the user pool \*"):
            stack.refuse_other_pool({**found, "Parameters": [{"ParameterKey": "UserPoolId", "ParameterValue": "*"}]},
                                    "eu-west-1_AbCd12345")


class Input(unittest.TestCase):
    def test_refuses_a_zip_that_lambda_could_not_run(self):
        elf = pathlib.Path("/bin/true").read_bytes()
        for content, text in [
            (b"not a zip", "is not a zip"),
            (zip_with(elf, name="main"), "has no file bootstrap"),
            (zip_with(b""), "not a program for x86-64 or arm64"),
            (zip_with(b"#!/bin/sh\n"), "not a program for x86-64 or arm64"),
            (zip_with(elf[:18] + b"\x28\x00" + elf[20:]), "not a program for x86-64 or arm64"),  # 32-bit ARM
            (zip_with(elf, mode=0o644), "is not executable"),
        ]:
            with self.assertRaisesRegex(Refusal, text):
                Package(content, "code.zip")
        for machine, architecture in [(b"\x3e\x00", "x86_64"), (b"\xb7\x00", "arm64")]:
            self.assertEqual(Package(zip_with(elf[:18] + machine + elf[20:]), "").architecture, architecture)


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
