"""`status` and `smoke` through the AWS CLI, against moto's AWS: a verdict only on what Cognito would meet, too."""

import base64
import json
import sys
import unittest

from program import OTHER, WholePool
from support import ACCOUNT, REGION, ROOT, Lambda, UserHub
from werkzeug.wrappers import Response

sys.path.insert(0, str(ROOT / "ops"))
from errors import AwsError  # noqa: E402
from function import judge  # noqa: E402

QUEUE = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/userhub-signin"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
ALARMS = ["errors", "throttles", "duration", "not-reported", "waiting", "given-up"]
CONFIGURATION = "/2015-03-31/functions/userhub-signin/configuration"
CONCURRENCY = "/2019-09-30/functions/userhub-signin/concurrency"


class Status(WholePool):
    """What no emulator has is made up here: figures of metrics and log lines, a queue's messages, an alarm's state."""

    def setUp(self):
        super().setUp()
        self.set_trigger(self.function)
        self.hour, self.day = [], []  # the log's lines, counted
        self.invoked = {"Invocations": (0, 0), "Errors": (0, 0), "Throttles": (0, 0)}  # last hour, last day
        self.log_groups = ["/aws/lambda/userhub-signin"]
        self.configuration = {}  # what Lambda says of the function

        def start(body):
            query = json.loads(body)
            self.assertEqual(query["logGroupNames"], self.log_groups)
            return Response(json.dumps({"queryId": str((query["endTime"] - query["startTime"]) // 3600)}))

        def results(body):
            rows = {"1": self.hour, "24": self.day}[json.loads(body)["queryId"]]
            return Response(json.dumps({"status": "Complete", "results": [
                [{"field": name, "value": str(value)} for name, value in row.items()] for row in rows]}))

        def groups(body):
            return Response(json.dumps({"logGroups": [{"logGroupName": name} for name in self.log_groups]}))

        self.aws.instead |= {
            "StartQuery": start, "GetQueryResults": results, "DescribeLogGroups": groups, "GetMetricData": self.metrics,
            "/2016-08-19/account-settings": lambda body: Response(json.dumps(
                {"AccountLimit": {"ConcurrentExecutions": 1000}}))}
        self.aws.also[CONFIGURATION] = lambda answer: {**answer, **self.configuration}

    def metrics(self, body):
        """As CloudWatch answers: newest figures first."""
        def values(query):
            if query["MetricStat"]["Metric"]["MetricName"] == "ApproximateAgeOfOldestMessage":
                return self.ages
            hour, day = self.invoked[query["MetricStat"]["Metric"]["MetricName"]]
            return [hour] if self.aws.calls.count("GetMetricData") % 2 else [hour, day - hour]

        return Response(json.dumps({"MetricDataResults": [
            {"Id": query["Id"], "Values": values(query)} for query in json.loads(body)["MetricDataQueries"]]}))

    def row(self, n, outcome="reported", kind=None, event_type="SIGNIN", source="PostAuthentication_Authentication",
            log="userhub-signin"):
        row = {"@log": f"{ACCOUNT}:/aws/lambda/{log}", "outcome": outcome, "event_type": event_type,
               "trigger_source": source, "n": n, "p50": 41.2, "p95": 90, "longest": 2001}
        return {**row, "error_kind": kind} if kind else row

    def with_queue(self, waiting=0, given_up=0, age=0, mapping="Enabled"):
        """A function with a queue, and with the function that empties it."""
        self.log_groups = ["/aws/lambda/userhub-signin", "/aws/lambda/userhub-signin-queue"]
        self.ages = [age, 0]
        self.deploy("userhub-signin-queue")
        variables = {"USERHUB_ADMIN_KEY": "x", "AMAZON_COGNITO_CONNECTION_ID": "x", "USERHUB_QUEUE_URL": QUEUE}
        self.configuration["Environment"] = {"Variables": variables}
        self.aws.instead["GetQueueAttributes"] = lambda body: Response(json.dumps({"Attributes": {
            "ApproximateNumberOfMessages": str(given_up if b"given-up" in body else waiting),
            "ApproximateNumberOfMessagesNotVisible": "0", "ApproximateNumberOfMessagesDelayed": "0"}}))
        self.aws.instead["/2015-03-31/event-source-mappings"] = lambda body: Response(json.dumps(
            {"EventSourceMappings": [{"State": mapping}] if mapping else []}))

    def with_stack(self, alarms=ALARMS, state="OK", queue="yes"):
        """A function that a stack owns, with these alarms."""
        stack = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/userhub-signin/x"
        self.aws.instead[f"/2017-03-31/tags/{self.function}"] = lambda body: Response(
            json.dumps({"Tags": {"aws:cloudformation:stack-name": "userhub-signin"}}))
        parameters = {"UserPoolId": self.pool, "FunctionName": "userhub-signin", "AdminKey": "****", "Alarms": "yes",
                      "Queue": queue}
        members = "".join(f"<member><ParameterKey>{key}</ParameterKey><ParameterValue>{value}</ParameterValue></member>"
                          for key, value in parameters.items())
        self.aws.instead["DescribeStacks"] = lambda body: Response(
            "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>userhub-signin</StackName>"
            f"<StackId>{stack}</StackId><StackStatus>CREATE_COMPLETE</StackStatus><Parameters>{members}</Parameters>"
            "</member></Stacks></DescribeStacksResult></DescribeStacksResponse>", content_type="text/xml")
        self.aws.instead["DescribeAlarms"] = lambda body: Response(json.dumps({"MetricAlarms": [
            {"AlarmName": f"userhub-signin-{name}", "StateValue": state, "AlarmDescription": "raise the quota",
             "AlarmActions": [TOPIC]} for name in alarms]}))
        self.topic()

    def topic(self, **attributes):
        entries = "".join(f"<entry><key>{key}</key><value>{value}</value></entry>"
                          for key, value in {"SubscriptionsConfirmed": "1", **attributes}.items())
        self.aws.instead["GetTopicAttributes"] = lambda body: Response(
            "<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes>" + entries +
            "</Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>", content_type="text/xml")

    def verdicts(self, *options):
        """The verdicts on sign-ins, reports and alarms, the findings, and everything that was said."""
        said = json.loads(self.program("status", "--json", code=0 if "ok" in options else 1))
        rooms = [said[room] for room in ["signIns", "reports", "alarms"]]
        findings = "\n".join(finding["text"] for room in rooms for finding in room["findings"])
        return tuple(room["verdict"] for room in rooms), findings, said

    def assert_verdicts(self, expected, *texts):
        verdicts, findings, said = self.verdicts(*(["ok"] if set(expected) == {"ok"} else []))
        self.assertEqual(verdicts, expected, json.dumps(said, indent=1))
        for text in texts:
            self.assertRegex(findings, text)
        return findings

    def test_says_that_all_is_well(self):
        self.hour = [self.row(40)]
        self.day = [self.row(1500), self.row(7, event_type="SIGNUP", source="PostConfirmation_ConfirmSignUp"),
                    self.row(3, "not_reported", "timed_out"), self.row(5, log="userhub-signin-queue")]
        self.with_queue()
        self.with_stack()
        printed = self.program("status")
        for text in [
            "sign-ins    ok\nreports     ok\nalarms      ok\n",
            f"attached    PostAuthentication: {self.function}",
            f"attached    PostConfirmation: another function, {OTHER}",
            "USERHUB_ADMIN_KEY, USERHUB_QUEUE_URL (values are not shown)",
            "in the last hour: 40 reported, 0 not reported\n",
            "in the last 24 hours: 1507 reported, 5 reported out of the queue, 3 not reported; errors: timed_out 3\n",
            "41 ms median, 90 ms 95th percentile, 2001 ms longest",
            "1503 SIGNIN\n", "7 SIGNUP\n", "7 PostConfirmation_ConfirmSignUp\n",
            "alarm       userhub-signin-errors: OK", "0 reports wait for UserHub; 0 were given up",
            "1000 concurrent executions for all functions of the account\n",
        ]:
            self.assertIn(text, printed)
        self.assertNotRegex(printed, "problem|unknown")
        self.assertNotIn("UpdateUserPool", self.aws.calls)

    def test_few_sign_ins_and_a_night_hide_nothing(self):
        self.day = [self.row(24, "not_reported", "rejected")]
        self.hour = [self.row(1, "not_reported", "rejected")]
        self.assert_verdicts(("ok", "problem", "ok"), "1 of 1 sign-ins in the last hour were not reported")
        self.day, self.hour = [self.row(500, "not_reported", "rejected")], []
        self.assert_verdicts(("ok", "problem", "ok"), "500 of 500 sign-ins in the last 24 hours were not reported")
        self.day, self.hour = [self.row(500, "not_reported", "rejected"), self.row(1000)], [self.row(40)]
        self.assert_verdicts(("ok", "ok", "ok"))
        self.day, self.hour = [self.row(3, "not_reported", "timed_out"), self.row(1000)], []
        self.assert_verdicts(("ok", "ok", "ok"))

    def test_a_log_level_that_hides_what_was_reported_makes_no_share(self):
        self.configuration["LoggingConfig"] = {"LogFormat": "JSON", "ApplicationLogLevel": "WARN"}
        self.invoked["Invocations"] = (10000, 200000)
        self.hour = self.day = [self.row(2, "not_reported", "timed_out")]
        _, _, said = self.verdicts("ok")
        self.assertIn("the log level hides what was reported: 10000 invocations in the last hour",
                      "\n".join(detail["text"] for detail in said["details"]))
        self.invoked["Invocations"] = (2, 2)
        self.assert_verdicts(("ok", "problem", "ok"), "2 of 2 sign-ins in the last hour were not reported")

    def test_a_missing_log_group_is_a_problem(self):
        self.invoked["Invocations"] = (0, 5)
        self.log_groups = []
        self.assert_verdicts(("ok", "problem", "ok"), "log group /aws/lambda/userhub-signin is missing")

    def test_does_not_guess_from_a_log_of_text(self):
        self.configuration["LoggingConfig"] = {"LogFormat": "Text"}
        self.assert_verdicts(("ok", "unknown", "ok"), "--logging-config LogFormat=JSON")

    def test_a_part_that_cannot_be_read_is_unknown_and_drops_no_other(self):
        for operation, room in [("StartQuery", 1), ("Invoke", 0), ("GetMetricData", 0), (CONCURRENCY, 0),
                                ("/2015-03-31/functions/userhub-signin/policy", 0)]:
            with self.subTest(operation):
                self.aws.refuse(operation, "AccessDeniedException", status=403)
                expected = ["ok", "ok", "ok"]
                expected[room] = "unknown"
                findings = self.assert_verdicts(tuple(expected), "These credentials lack a permission")
                self.assertNotRegex(findings, "sign-in fails|detach")
                del self.aws.instead[operation]
                self.aws.instead.update({"Invoke": lambda body: Response(body), "GetMetricData": self.metrics})
                if operation == "StartQuery":
                    self.aws.instead["StartQuery"] = lambda body: Response('{"queryId": "1"}')

    def test_credentials_that_have_expired_give_no_verdict(self):
        self.aws.refuse("DescribeUserPool", "ExpiredTokenException")
        findings = self.assert_verdicts(("unknown", "unknown", "unknown"), "Sign in again")
        self.assertNotIn("detach", findings)

    def test_hidden_settings_are_unknown_and_not_missing(self):
        self.configuration["Environment"] = {"Error": {"ErrorCode": "AccessDeniedException", "Message": "kms:Decrypt"}}
        self.assert_verdicts(("ok", "unknown", "ok"), "These credentials may lack kms:Decrypt")

    def test_an_update_that_failed_leaves_the_code_before_it(self):
        self.configuration |= {"LastUpdateStatus": "Failed", "LastUpdateStatusReason": "no"}
        self.verdicts("ok")

    def test_what_keeps_cognito_from_the_function_is_a_problem(self):
        policy = "/2015-03-31/functions/userhub-signin/policy"
        self.aws.also[policy] = lambda answer: {"Policy": '{"Statement": []}'}
        self.assert_verdicts(("problem", "ok", "ok"), "every sign-in fails: Cognito may not invoke",
                             f"This restores sign-in: .* detach {self.pool}")
        del self.aws.also[policy]
        for code, message, text in [
            ("TooManyRequestsException", "Rate Exceeded", "as it would refuse Cognito"),
            ("KMSDisabledException", "disabled", "Lambda cannot run it"),
            ("AccessDeniedException", "The role … cannot be assumed by Lambda.", "cannot assume its role"),
        ]:
            self.aws.refuse("Invoke", code, message)
            self.assert_verdicts(("problem", "ok", "ok"), text, "This restores sign-in")
        self.aws.instead["Invoke"] = lambda body: Response(b"{}")
        self.assert_verdicts(("problem", "ok", "ok"), "it returned '{}'")
        self.aws.instead["Invoke"] = lambda body: Response(body)
        self.functions.delete_function(FunctionName="userhub-signin")
        self.assert_verdicts(("problem", "ok", "ok"), "every sign-in fails. There is no function userhub-signin")

    def test_invocations_that_failed_are_a_problem_until_others_worked(self):
        self.invoked = {"Invocations": (3, 90), "Errors": (1, 1), "Throttles": (0, 0)}
        self.assert_verdicts(("problem", "ok", "ok"), "1 invocations failed in the last hour")
        self.invoked = {"Invocations": (0, 90), "Errors": (0, 0), "Throttles": (0, 7)}
        self.assert_verdicts(("problem", "ok", "ok"), "0 invocations were refused .* last hour, 7 in the last 24")
        self.invoked["Invocations"] = (3, 90)
        self.verdicts("ok")

    def test_limits_are_said(self):
        self.aws.instead[CONCURRENCY] = lambda body: Response('{"ReservedConcurrentExecutions": 1}')
        self.aws.instead["/2016-08-19/account-settings"] = lambda body: Response(
            '{"AccountLimit": {"ConcurrentExecutions": 10}}')
        verdicts, findings, said = self.verdicts()
        self.assertEqual(verdicts, ("problem", "ok", "ok"))
        self.assertIn("reserved concurrency of 1: sign-ins beyond 1 at the same time fail", findings)
        self.assertIn("10 concurrent executions for all functions of the account, which is few", json.dumps(said))

    def test_waiting_reports_are_no_problem_until_they_are_old_or_given_up(self):
        self.with_queue(waiting=3, age=120)
        _, _, said = self.verdicts("ok")
        self.assertIn("3 reports wait for UserHub, the oldest for 2 minutes", json.dumps(said))
        self.with_queue_changed(waiting=3, age=1200)
        self.assert_verdicts(("ok", "problem", "ok"), "3 reports wait, the oldest for 20 minutes")
        self.with_queue_changed(given_up=2)
        self.assert_verdicts(("ok", "problem", "ok"), "2 reports were given up; .* aws sqs start-message-move-task "
                             f"--region {REGION} --source-arn arn:aws:sqs:{REGION}:{ACCOUNT}:userhub-signin-given-up")
        for mapping, text in [("Disabled", "its event source mapping is disabled"), (None, "mapping is gone")]:
            self.with_queue_changed(mapping=mapping)
            self.assert_verdicts(("ok", "problem", "ok"), text)
        self.functions.delete_function(FunctionName="userhub-signin-queue")
        self.assert_verdicts(("ok", "problem", "ok"), "there is no function userhub-signin-queue, so what waits stays")
        self.aws.refuse("GetQueueAttributes", "AWS.SimpleQueueService.NonExistentQueue")
        self.assert_verdicts(("ok", "problem", "ok"), f"the queue {QUEUE} is gone")

    def with_queue_changed(self, **how):
        self.functions.delete_function(FunctionName="userhub-signin-queue")
        self.with_queue(**how)

    def test_alarms_that_are_gone_or_reach_nobody_are_a_problem(self):
        self.with_stack(alarms=ALARMS[1:])
        self.assert_verdicts(("ok", "ok", "problem"), "the alarm userhub-signin-errors was deleted")
        self.with_stack(queue="no", alarms=ALARMS[:4])
        self.verdicts("ok")
        self.topic(KmsMasterKeyId="alias/aws/sns")
        self.assert_verdicts(("ok", "ok", "problem"), f"CloudWatch cannot publish to the topic {TOPIC}")
        self.topic(SubscriptionsConfirmed="0")
        self.assert_verdicts(("ok", "ok", "problem"), "nobody has confirmed a subscription")
        self.aws.refuse("GetTopicAttributes", "NotFound")
        self.assert_verdicts(("ok", "ok", "problem"), f"the topic {TOPIC} does not exist")
        self.with_stack(state="ALARM")
        self.assert_verdicts(("problem", "problem", "ok"), "userhub-signin-throttles has gone off: raise the quota")

    def test_says_what_is_not_attached_or_not_set(self):
        self.set_trigger(OTHER)
        verdicts, findings, said = self.verdicts()
        self.assertEqual(verdicts, ("ok", "problem", "ok"))
        self.assertRegex(findings, f"userhub-signin is not attached, so nothing is reported: .* attach {self.pool}")
        self.assertIn(f"PostAuthentication: another function, {OTHER}", json.dumps(said))
        self.set_trigger(f"{self.function}:live")
        self.assertIn("ok", self.verdicts("ok")[0])
        self.functions.delete_function(FunctionName="userhub-signin")
        self.deploy(variables={"USERHUB_BASE_URL": "https://example.com"})
        printed = self.program("status", code=1)
        self.assertIn("nothing is reported: USERHUB_ADMIN_KEY and AMAZON_COGNITO_CONNECTION_ID missing", printed)
        self.assertNotIn("example.com", printed)


class Errors(unittest.TestCase):
    def test_the_operators_own_trouble_is_named_and_gives_no_verdict(self):
        said = "An error occurred ({}) when calling the {} operation: {}"
        for error, text in [
            (said.format("UnauthorizedException", "GetRoleCredentials", "Session token not found"), "Sign in again"),
            (said.format("AccessDeniedException", "CreateOAuth2Token", "no"), "Sign in again"),
            (said.format("InvalidGrantException", "CreateToken", "no"), "Sign in again"),
            (said.format("AccessDenied", "AssumeRole", "no"), "Sign in again"),
            ("Error when retrieving token from sso: Token has expired and refresh failed", "Sign in again"),
            (said.format("InvalidSignatureException", "Invoke", "Signature expired: 20261127T110000Z is now earlier "
                         "than 20261127T111500Z (20261127T112000Z - 5 min.)"), "clock is 20 minutes behind AWS's"),
            (said.format("SignatureDoesNotMatch", "Invoke", "Signature not yet current: 20261127T120000Z is still "
                         "later than 20261127T112500Z (20261127T112000Z + 5 min.)"), "40 minutes ahead of AWS's"),
            (said.format("RequestTimeTooSkewed", "PutObject", "The difference … is too large."), "clock is not AWS's"),
            (said.format("AccessDeniedException", "Invoke", "… is not authorized to perform …"), "lack a permission"),
            (said.format("ThrottlingException", "GetPolicy", "Rate exceeded"), "fewer requests"),
            ("Could not connect to the endpoint URL: \"https://…\"", "AWS cannot be reached in region eu-west-1"),
        ]:
            with self.subTest(error):
                found = AwsError("eu-west-1", "lambda invoke", error)
                self.assertIn(text, str(found))
                self.assertEqual(judge(found)[0], "unknown")


class Smoke(WholePool):
    """Lambda's answer comes from the release binary in AWS's runtime interface emulator."""

    def start(self, fault=None):
        self.userhub = UserHub(fault)
        function = Lambda(self.userhub.base_url)
        self.addCleanup(function.stop)

        def invoke(body):
            answer = function.invoke(body)
            function.wait_for('"outcome"')
            [line] = [line for line in function.lines if '"outcome"' in line]
            return Response(answer, headers={"X-Amz-Log-Result": base64.b64encode(line.encode()).decode()})

        self.aws.instead["Invoke"] = invoke

    def user(self, name):
        self.cognito.admin_create_user(UserPoolId=self.pool, Username=name)
        return name

    def smoke(self, name, **how):
        """What it says, without the name, which no other program's arguments contain either."""
        arguments, path = self.recorded()
        printed = self.program("smoke", "--user", "-", typed=f"{name}\n", environment=path, **how)
        self.assertIn("admin-get-user", arguments.read_text())
        self.assertNotIn(name, printed + arguments.read_text())
        return printed

    def test_reports_a_user_of_the_pool(self):
        self.start()
        printed = self.smoke(self.user("名前"))
        self.assertIn("came back unchanged", printed)
        self.assertIn('"outcome":"reported"', printed)
        self.assertEqual(self.userhub.end(), ["名前"])

    def test_no_made_up_user_is_reported(self):
        self.start()
        self.assertIn("There is no such user", self.smoke("nobody", code=1))
        self.assertIn("required: --user", self.program("smoke", code=2))
        self.assertEqual(self.userhub.end(), [])

    def test_tells_a_report_that_failed(self):
        self.start("401")
        printed = self.program("smoke", "--user", self.user("ada"), code=1)
        self.assertIn("came back unchanged", printed)
        self.assertIn('"error_kind":"rejected"', printed)
        self.assertIn("Sign-ins work", printed)
        self.assertEqual(self.userhub.end(), ["ada"])

    def test_tells_a_broken_function(self):
        self.user("ada")
        self.aws.instead["Invoke"] = lambda body: Response(
            b'{"errorType":"Runtime.ExitError"}', headers={"X-Amz-Function-Error": "Unhandled"})
        self.assertIn("Do not attach this function", self.program("smoke", "--user", "ada", code=1))
        self.aws.instead["Invoke"] = lambda body: Response(body + b" ")
        self.assertIn("did not come back as it was", self.program("smoke", "--user", "ada", code=1))
        self.aws.instead["Invoke"] = lambda body: Response(body)
        self.assertIn("not seen to be reported", self.program("smoke", "--user", "ada", code=1))
        self.aws.refuse("Invoke", "AccessDeniedException")
        self.assertNotIn("Sign-ins would fail", self.program("smoke", "--user", "ada", code=1))

    def test_a_report_that_is_to_wait_is_no_failure(self):
        self.user("ada")
        line = base64.b64encode(b'{"outcome":"queued"}').decode()
        self.aws.instead["Invoke"] = lambda body: Response(body, headers={"X-Amz-Log-Result": line})
        self.assertIn("it waits for UserHub", self.program("smoke", "--user", "ada", code=1))
        self.aws.also[CONFIGURATION] = lambda answer: {**answer, "Environment": {"Variables": {
            "USERHUB_REPORT_VIA": "queue", "USERHUB_QUEUE_URL": QUEUE}}}
        self.assertIn("it waits for UserHub", self.program("smoke", "--user", "ada"))
