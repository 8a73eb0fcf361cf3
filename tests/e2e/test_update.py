"""A deployed 0.1.0 that reports after the response becomes this version, while users sign in."""

import json
import threading
import time

from support import BINARY, ROOT, SETTINGS, Ministack, UserHub, free_port, run, zipped
from test_infrastructure import RELEASED
from test_sign_in import Cognito
from test_template import ALWAYS

BEFORE = (ROOT / "tests/e2e/template-0.1.0.yaml").read_text()
# As Python writes it, because the emulator does so.
EVENT = json.dumps(json.loads((ROOT / "events/post-authentication.json").read_bytes())).encode()


class Update(Cognito):
    triggers = ["PostAuthentication"]
    function = "userhub-signin"

    def setUp(self):
        self.aws = Ministack(self.lambda_port)
        self.addCleanup(self.aws.stop)
        self.functions, self.stacks = self.aws.client("lambda"), self.aws.client("cloudformation")
        self.pool = self.aws.client("cognito-idp").create_user_pool(PoolName="pool")["UserPool"]["Id"]
        self.arn = self.aws.deploy(
            "userhub-signin", BEFORE, UserPoolId=self.pool, ConnectionId="conn_local", Report="after-response",
            AdminKey=SETTINGS["USERHUB_ADMIN_KEY"], BaseUrl=f"https://127.0.0.1:{free_port()}", LogLevel="WARN",
            **self.aws.upload(zipped(BINARY)))["FunctionArn"]
        self.aws.client("cognito-idp").update_user_pool(
            UserPoolId=self.pool, LambdaConfig={"PostAuthentication": self.arn})
        self.wrong, self.count, self.over = [], 0, threading.Event()

    def resources(self):
        found = self.stacks.describe_stack_resources(StackName="userhub-signin")["StackResources"]
        return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in found}

    def may_be_called(self):
        """What Cognito needs of the function's policy."""
        policy = json.loads(self.functions.get_policy(FunctionName=self.arn)["Policy"])
        return [(statement["Principal"]["Service"], f"userpool/{self.pool}" in json.dumps(statement["Condition"]))
                for statement in policy["Statement"]] == [("cognito-idp.amazonaws.com", True)]

    def keep_signing_in(self):
        functions = self.aws.client("lambda")

        def answer():
            answered = functions.invoke(FunctionName=self.arn, Payload=EVENT)
            return answered["Payload"].read()

        while not self.over.is_set():
            try:
                # The emulator ends a process in the middle of a call, which AWS does not. Cognito calls again.
                if (answer() != EVENT and answer() != EVENT) or not self.may_be_called():
                    self.wrong.append("the event did not come back")
            except Exception as error:
                self.wrong.append(error)
            self.count += 1

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline, self.wrong)
            time.sleep(0.1)

    def during(self, update):
        """Updates the stack while users sign in. Nothing that the pool calls is replaced, and each sign-in works."""
        before = self.resources()
        self.authenticate(self.pool_with(["before"]), ["before"])
        thread = threading.Thread(target=self.keep_signing_in)
        thread.start()
        try:
            self.wait_for(lambda: self.count >= 5)
            update()
            count = self.count
            self.wait_for(lambda: self.count >= count + 5)
        finally:
            self.over.set()
            thread.join()
        self.assertEqual(self.wrong, [])
        after = self.resources()
        self.assertEqual({name: after[name] for name in ALWAYS}, {name: before[name] for name in ALWAYS})
        self.assertNotIn("UserHubDownAlarm", after)

        # What this version adds: the queue takes what UserHub does not, and the report arrives later.
        configuration = self.functions.get_function_configuration(FunctionName="userhub-signin")
        self.assertEqual(set(configuration["Environment"]["Variables"]), {
            "USERHUB_ADMIN_KEY", "AMAZON_COGNITO_CONNECTION_ID", "USERHUB_BASE_URL", "USERHUB_QUEUE_URL"})
        userhub = UserHub()
        self.aws.set_variables("userhub-signin-queue", USERHUB_BASE_URL=userhub.base_url)
        sqs = self.aws.client("sqs")
        queue = configuration["Environment"]["Variables"]["USERHUB_QUEUE_URL"]
        sqs.purge_queue(QueueUrl=queue)  # of those that were tried without success, and would be again in two minutes
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        self.authenticate(self.pool_with(["after"]), ["after"])
        self.wait_for(lambda: set(sqs.get_queue_attributes(
            QueueUrl=queue, AttributeNames=counts)["Attributes"].values()) == {"0"})
        self.assertEqual([user for user in userhub.end() if user != json.loads(EVENT)["userName"]], ["after"])

    def test_with_the_released_template(self):
        parameters = {**self.aws.upload(zipped(BINARY, b"new"))}
        names = {parameter["ParameterKey"] for parameter in self.stacks.get_template_summary(
            TemplateBody=RELEASED)["Parameters"]}
        kept = ["UserPoolId", "ConnectionId", "AdminKey", "BaseUrl", "FunctionName", "Architecture"]
        self.assertLessEqual(set(kept), names)
        given = [*({"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()),
                 *({"ParameterKey": name, "UsePreviousValue": True} for name in kept)]

        def update():
            self.stacks.create_change_set(
                StackName="userhub-signin", ChangeSetName="update", TemplateBody=RELEASED, Parameters=given,
                Capabilities=["CAPABILITY_IAM"])
            self.stacks.get_waiter("change_set_create_complete").wait(
                StackName="userhub-signin", ChangeSetName="update", WaiterConfig={"Delay": 0.2})
            changes = [change["ResourceChange"] for change in self.stacks.describe_change_set(
                StackName="userhub-signin", ChangeSetName="update")["Changes"]]
            self.assertEqual({change["LogicalResourceId"] for change in changes if change["Action"] == "Remove"},
                             {"UserHubDownMetric", "UserHubDownAlarm"})
            self.assertEqual([change for change in changes if change.get("Replacement", "False") != "False"], [])
            self.stacks.execute_change_set(StackName="userhub-signin", ChangeSetName="update")
            self.stacks.get_waiter("stack_update_complete").wait(
                StackName="userhub-signin", WaiterConfig={"Delay": 0.2})

        self.during(update)

    def test_with_the_program(self):
        path = self.aws.folder.name + "/new.zip"
        with open(path, "wb") as file:
            file.write(zipped(BINARY, b"new"))
        self.during(lambda: run("python3", ROOT / "ops", "deploy", self.pool, "--zip", path, environment={
            "AWS_ENDPOINT_URL": self.aws.url}))
