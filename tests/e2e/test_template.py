"""template.yaml and connection.yaml: through the linters, moto's evaluation of every pair of options, and SAM."""

import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import sys
import tempfile
import unittest

import boto3
import botocore.validate
from moto.cloudformation.parsing import ResourceMap, clean_json, parse_condition
from samtranslator.yaml_helper import yaml_parse
from support import ACCOUNT, REGION, ROOT, SETTINGS, Lambda, Ministack, UserHub, run, security_scan, talk

sys.path.insert(0, str(ROOT / "ops"))
from package import released_template  # noqa: E402

SOURCE, CONNECTION_SOURCE = ((ROOT / name).read_text() for name in ["template.yaml", "connection.yaml"])
TEMPLATE, CONNECTION = map(yaml_parse, [SOURCE, CONNECTION_SOURCE])
KEY = SETTINGS["USERHUB_ADMIN_KEY"]
POOL = "eu-west-1_AbCd12345"
POOL_ARN = f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{POOL}"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:userhub/key-AbCdEf"
VERSION = "1f0e2d3c-4b5a-4697-8877-665544332211"
KMS_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{VERSION}"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/boundary"
QUEUE = {"ReportQueue", "DeadLetterQueue", "QueuePolicy", "DeadLetterQueuePolicy", "QueueFunction", "QueueLogGroup",
         "QueueRole", "QueueMapping"}
ALARMS = {"NotReportedMetric", "NotReportedAlarm", "ErrorsAlarm", "ThrottlesAlarm", "DurationAlarm"}
QUEUE_ALARMS = {"QueueNotReportedMetric", "WaitingMetric", "WaitingAlarm", "GivenUpAlarm"}
QUERIES = {"OutcomesQuery", "DurationsQuery", "SourcesQuery"}
PORTAL = {"PortalDomain": "portal.example.com"}


def secret_reference(json_key="", version=""):
    return {"USERHUB_ADMIN_KEY": f"{{{{resolve:secretsmanager:{SECRET}:SecretString:{json_key}::{version}}}}}"}


# Every choice that there is, its default first, and what it adds: (parameters, resources, variables of what reports).
CHOICES = [
    [({"AdminKey": KEY}, set(), {"USERHUB_ADMIN_KEY": KEY}),
     ({"AdminKeySecretArn": SECRET, "AdminKey": "none"}, set(), secret_reference()),
     ({"AdminKeySecretArn": SECRET, "AdminKeySecretVersionId": VERSION}, set(), secret_reference(version=VERSION)),
     ({"AdminKeySecretArn": SECRET, "AdminKeySecretJsonKey": "key"}, set(), secret_reference("key")),
     ({"AdminKeySecretArn": SECRET, "AdminKeySecretJsonKey": "key", "AdminKeySecretVersionId": VERSION}, set(),
      secret_reference("key", VERSION))],
    [({}, set(), {}), ({"ConnectionId": "conn_x"}, set(), {"AMAZON_COGNITO_CONNECTION_ID": "conn_x"})],
    [({}, set(), {}), ({"BaseUrl": "https://api.example.com"}, set(), {"USERHUB_BASE_URL": "https://api.example.com"})],
    [({}, QUEUE, {}), ({"ReportVia": "queue"}, QUEUE, {}), ({"Queue": "no"}, set(), {})],
    [({}, set(), {}), ({"KmsKeyArn": KMS_KEY}, {"DecryptPolicy"}, {})],
    [({}, ALARMS | QUEUE_ALARMS, {}),
     ({"AlarmTopicArn": TOPIC, "NotReportedThreshold": "5"}, ALARMS | QUEUE_ALARMS, {}), ({"Alarms": "no"}, set(), {})],
    [({}, QUERIES | {"WaitsQuery"}, {}), ({"SavedQueries": "no"}, set(), {})],
    [({}, set(), {}), ({"PermissionsBoundaryArn": BOUNDARY}, set(), {})],
    [({}, set(), {}), ({"CodeVersion": "0.2.0"}, set(), {})],
    [({}, set(), {}), ({"Architecture": "arm64"}, set(), {})],
]
# The ids that 0.1.0 has: a stack of it is updated, and nothing that the pool calls is replaced.
ALWAYS = {"Function", "Role", "LogGroup", "CognitoPermission"}
EVERYTHING = {
    "UserPoolId": POOL, "ConnectionId": "conn_x", "AdminKey": KEY, "AlarmTopicArn": TOPIC, "NotReportedThreshold": "3",
    "KmsKeyArn": KMS_KEY, "PermissionsBoundaryArn": BOUNDARY, "CodeVersion": "0.2.0, sha256 4fd8",
}
CONNECTION_EVERYTHING = {
    "UserPoolId": POOL, **PORTAL, "PortalIdentityProviders": "COGNITO,Google", "PortalManagedLogin": "yes",
    "PortalChoiceBasedSignIn": "yes", "PermissionsBoundaryArn": BOUNDARY,
}


def names(value):
    """The names of all resources and parameters that a part of a template refers to."""
    if isinstance(value, list):
        return set().union(*map(names, value))
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, part in value.items():
        if key == "Ref":
            found.add(part)
        elif key == "Fn::GetAtt":
            found.add(part[0])
        elif key == "Fn::Sub":
            text, more = part if isinstance(part, list) else (part, {})
            found |= (set(re.findall(r"\$\{([\w:]+)", text)) - set(more)) | names(more)
        else:
            found |= names(part)
    return {name for name in found if not name.startswith("AWS::")}


class Plan:
    """What a template comes to with these parameters. moto evaluates it, and creates nothing."""

    def __init__(self, template=TEMPLATE, **parameters):
        required = {"UserPoolId": POOL, **({"AdminKey": KEY} if template is TEMPLATE else {})}
        self.template = template
        self.stack = ResourceMap("id", "stack", {**required, **parameters}, {}, REGION, ACCOUNT, template, {})
        self.stack.load()
        self.created = {name for name, resource in template["Resources"].items() if self.holds(resource)}

    def holds(self, part):
        return "Condition" not in part or self.stack.lazy_condition_map[part["Condition"]]

    def named(self, value):
        """With <Name> in place of a reference to that resource, which moto would create."""
        if isinstance(value, list):
            return [self.named(part) for part in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"Ref"} and value["Ref"] in self.template["Resources"]:
            return f"<{value['Ref']}>"
        if value.keys() == {"Fn::GetAtt"}:
            return f"<{'.'.join(value['Fn::GetAtt'])}>"
        if value.keys() == {"Fn::Sub"} and isinstance(value["Fn::Sub"], str):
            return {"Fn::Sub": re.sub(r"\$\{(\w+\.\w+|ConnectionAccessKey)\}", r"<\1>", value["Fn::Sub"])}
        return {key: self.named(part) for key, part in value.items()}

    def properties(self, name):
        assert name in self.created, name
        found = clean_json(self.named(self.template["Resources"][name]["Properties"]), self.stack)
        return {key: value for key, value in found.items() if value is not None}

    def variables(self, name):
        found = self.properties(name)["Environment"]["Variables"]
        return {key: value for key, value in found.items() if value is not None}

    def statements(self, role):
        """All that a role or a user may do."""
        policies = [policy for policy in self.properties(role)["Policies"] if policy]
        policies += [self.properties(name) for name in self.created
                     if self.template["Resources"][name]["Type"] == "AWS::IAM::Policy"
                     and f"<{role}>" in self.properties(name)["Roles"]]
        return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"] if statement]


def refusals(template, **parameters):
    """What the template's rules say to these parameters."""
    plan = Plan(template, **parameters)
    return [assertion["AssertDescription"] for rule in template["Rules"].values()
            if parse_condition(rule.get("RuleCondition", True), plan.stack, {})
            for assertion in rule["Assertions"] if not parse_condition(assertion["Assert"], plan.stack, {})]


def pairs(choices):
    """All defaults, every option alone, and every two options of different choices together.

    All combinations would be 8,640. No resource and no variable depends on more than two choices.
    """
    defaults = [choice[0] for choice in choices]
    yield defaults
    for place, choice in enumerate(choices):
        for option in choice[1:]:
            yield [*defaults[:place], option, *defaults[place + 1:]]
    for (first, one), (second, other) in itertools.combinations(enumerate(choices), 2):
        for option, another in itertools.product(one[1:], other[1:]):
            combination = list(defaults)
            combination[first], combination[second] = option, another
            yield combination


def with_defaults(source, values):
    for name, value in values.items():
        source, changed = re.subn(rf"(\n  {name}:\n(?:    .*\n)*?    Default:).*", rf'\1 "{value}"', source)
        assert changed == 1 or name == "UserPoolId", name
    return source


def takes(service, operation, arguments):
    """Fails if AWS's description of the operation does not fit the arguments."""
    shape = boto3.client(service, REGION).meta.service_model.operation_model(operation).input_shape
    report = botocore.validate.ParamValidator().validate(arguments, shape)
    assert not report.has_errors(), report.generate_report()


class Source(unittest.TestCase):
    def test_the_linters_find_nothing(self):
        self.assertEqual(run("cfn-lint", "template.yaml", "connection.yaml").stdout, "")
        for path in ["template.yaml", "connection.yaml"]:
            said = run(ROOT / ".tools/bin/sam", "validate", "--lint", "--template-file", path).stdout
            self.assertIn("is a valid SAM Template", said)

    def test_cloudformation_takes_them_without_a_bucket_and_without_a_transform(self):
        for source in [released_template(SOURCE, "arm64"), CONNECTION_SOURCE]:
            self.assertLess(len(source.encode()), 51200)
            self.assertNotIn("Transform", yaml_parse(source))

    def test_the_security_scan_finds_nothing_without_a_reason(self):
        for source, values in [(SOURCE, EVERYTHING), (CONNECTION_SOURCE, CONNECTION_EVERYTHING)]:
            noted = set(re.findall(r"checkov:skip=(\w+):(.+)", source))
            skipped = set()
            # checkov looks at what the defaults create, so it looks once more with everything in the defaults.
            for template in [source, with_defaults(source, values)]:
                scan = security_scan(template, ".yaml", "cloudformation")
                self.assertEqual([(found["check_id"], found["resource"]) for found in scan["failed_checks"]], [])
                self.assertGreater(len(scan["passed_checks"]), 1)
                skipped |= {(skip["check_id"], skip["check_result"]["suppress_comment"])
                            for skip in scan["skipped_checks"]}
            self.assertEqual(skipped, noted, "every accepted finding has its reason, and every reason its finding")

    def test_every_parameter_is_described_and_has_a_pattern_or_values(self):
        for template in [TEMPLATE, CONNECTION]:
            for name, parameter in template["Parameters"].items():
                with self.subTest(name):
                    self.assertGreater(len(parameter["Description"]), 20)
                    self.assertTrue(parameter.keys() & {"AllowedValues", "AllowedPattern", "MinValue"})
                    self.assertRegex(parameter["ConstraintDescription"], "^must be ", "the name comes before it")
                    self.assertEqual("Default" in parameter, name != "UserPoolId")
                    self.assertEqual(parameter.get("NoEcho", False), name == "AdminKey")
            grouped = [name for group in template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
                       for name in group["Parameters"]]
            self.assertEqual(sorted(grouped), sorted(template["Parameters"]))
            self.assertFalse(template["Parameters"].keys() & template["Resources"].keys(), "they share their names")

    def test_patterns_take_what_is_meant_and_nothing_else(self):
        for name, good, bad in [
            ("UserPoolId", [POOL, "us-gov-west-1_Ab1"], ["", "eu-west-1", "AbCd12345", "eu-west-1_a b"]),
            ("ConnectionId", ["", "conn_AbCd-1"], ["conn 1", "conn/1", "conn@1"]),
            ("AdminKey", ["", "none", KEY, "a-._~+/=="],
             ["two words", "line\nbreak", f"'{KEY}'", f'"{KEY}"', f'{{"key":"{KEY}"}}', "a=b"]),
            ("AdminKeySecretArn", ["", SECRET], ["userhub/key", SECRET.replace("secret:", "", 1).replace(":sec", "")]),
            ("AdminKeySecretJsonKey", ["", "adminKey", "userhub.admin-key", "clé"],
             ["a:b", "a}", "}}", "{a", "two words", 'a"b', "a\\"]),
            ("AdminKeySecretVersionId", ["", VERSION], ["AWSCURRENT", VERSION + "}}"]),
            ("BaseUrl", ["", "https://api.example.com", "https://api.example.com:8443/userhub"],
             ["http://api.example.com", "api.example.com", "https://user@example.com", "https://example.com?a=b"]),
            ("FunctionName", ["userhub-signin", "a"], ["", "a b", "a:b", "x" * 59]),
            ("CodeVersion", ["", "0.2.0", "0.2.0, sha256 " + 64 * "f", "0.2.0, sha256 q+/=", 128 * "x"],
             [" ", "a\nb", "(1)", "\u2026", 129 * "x"]),
            ("PermissionsBoundaryArn",
             ["", BOUNDARY, "arn:aws:iam::aws:policy/PowerUserAccess", "arn:aws-us-gov:iam::123456789012:policy/a/b"],
             ["boundary", f"arn:aws:iam::{ACCOUNT}:role/boundary", "arn:aws:iam:::policy/boundary", BOUNDARY + " x"]),
            ("KmsKeyArn", ["", KMS_KEY], [f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/key", VERSION]),
            ("AlarmTopicArn", ["", TOPIC], ["alarms", TOPIC + ".fifo"]),
            ("PortalDomain", ["", "portal.example.com"],
             ["https://portal.example.com", "localhost", "Portal.example.com", "portal.example.com/", "-a.org"]),
            ("PortalIdentityProviders", ["COGNITO", "My SAML-1"], ["a/b", ""]),
        ]:
            pattern = {**CONNECTION["Parameters"], **TEMPLATE["Parameters"]}[name]["AllowedPattern"]
            for value in good:
                self.assertRegex(value, pattern, name)
            for value in bad:
                self.assertIsNone(re.search(pattern.replace("$", r"\Z"), value), (name, value))

    def test_rules_refuse_contradictions(self):
        for template, parameters, expected in [
            (TEMPLATE, {}, None),
            (TEMPLATE, {"AdminKey": "none", "AdminKeySecretArn": SECRET}, None),
            (TEMPLATE, {"AdminKey": "", "AdminKeySecretArn": SECRET, "AdminKeySecretVersionId": VERSION}, None),
            (TEMPLATE, {"AdminKey": "", "AdminKeySecretArn": SECRET, "AdminKeySecretJsonKey": "key"}, None),
            (TEMPLATE, {"AlarmTopicArn": TOPIC}, None),
            (TEMPLATE, {"ReportVia": "queue"}, None),
            (TEMPLATE, {"Queue": "no"}, None),
            (CONNECTION, {**PORTAL, "PortalManagedLogin": "yes", "PortalChoiceBasedSignIn": "yes"}, None),
            (TEMPLATE, {"AdminKey": ""}, "Give UserHub's Admin API key"),
            (TEMPLATE, {"AdminKey": "none"}, "Give UserHub's Admin API key"),
            (TEMPLATE, {"AdminKeySecretArn": SECRET}, "not both"),
            (TEMPLATE, {"AdminKeySecretVersionId": VERSION}, "so give AdminKeySecretArn"),
            (TEMPLATE, {"AdminKeySecretJsonKey": "key"}, "so give AdminKeySecretArn"),
            (TEMPLATE, {"ReportVia": "queue", "Queue": "no"}, "so set Queue to yes"),
            (TEMPLATE, {"Alarms": "no", "AlarmTopicArn": TOPIC}, "set Alarms to yes"),
            (CONNECTION, {"PortalManagedLogin": "yes"}, "so give PortalDomain"),
            (CONNECTION, {"PortalChoiceBasedSignIn": "yes"}, "so give PortalDomain"),
        ]:
            with self.subTest(parameters):
                found = refusals(template, **parameters)
                self.assertEqual(len(found), 1 if expected else 0, found)
                self.assertIn(expected or "", "".join(found))

    def test_every_pair_of_options(self):
        for choice in [*pairs(CHOICES), [options[-1] for options in CHOICES]]:
            parameters, resources, variables = {"AdminKey": ""}, set(ALWAYS), {}
            for more_parameters, more_resources, more_variables in choice:
                parameters |= more_parameters
                resources |= more_resources
                variables |= more_variables
            if parameters.get("ReportVia") == "queue" and parameters.get("Queue") == "no":
                continue  # a rule refuses it
            via, has_queue = parameters.get("ReportVia", "direct"), "Queue" not in parameters
            if not has_queue:
                resources -= QUEUE_ALARMS | {"WaitsQuery"}
            plan = Plan(**parameters)
            self.assertEqual(plan.created, resources, parameters)
            for_sign_ins = variables if via == "direct" else {"USERHUB_REPORT_VIA": "queue"}
            self.assertEqual(plan.variables("Function"),
                             for_sign_ins | ({"USERHUB_QUEUE_URL": "<ReportQueue>"} if has_queue else {}), parameters)
            key = parameters.get("KmsKeyArn")
            self.assertEqual(plan.properties("Function").get("KmsKeyArn"), key if via == "direct" else None)
            if has_queue:
                self.assertEqual(plan.variables("QueueFunction"), variables, parameters)
                self.assertEqual(plan.properties("QueueFunction").get("KmsKeyArn"), key)
            for output in TEMPLATE["Outputs"].values():
                if plan.holds(output):
                    self.assertLessEqual(names(output["Value"]), plan.created)

    def test_what_the_pool_still_calls_stays_when_its_name_changes(self):
        kept = {name for name, resource in TEMPLATE["Resources"].items()
                if (resource.get("UpdateReplacePolicy"), resource.get("DeletionPolicy")) == ("Retain", "Delete")}
        self.assertEqual(kept, ALWAYS | {"ReportQueue", "DeadLetterQueue", "QueueLogGroup"})

    def test_nothing_that_they_say_sounds_as_if_sign_in_was_switched_off(self):
        for source in [SOURCE, CONNECTION_SOURCE]:
            self.assertNotRegex(source, "everybody|make (at|de)tach|make deploy")

    def test_outputs_hold_no_secret(self):
        for template in [TEMPLATE, CONNECTION]:
            for output in template["Outputs"].values():
                self.assertNotRegex(json.dumps(output["Value"]), "AdminKey|SecretAccessKey|ClientSecret|resolve:")


class Functions(unittest.TestCase):
    def test_both_run_the_same_code_within_their_limits(self):
        plan = Plan(**EVERYTHING)
        one, other = (plan.properties(name) for name in ["Function", "QueueFunction"])
        for name in ["Runtime", "Handler", "Code", "Architectures", "MemorySize"]:
            self.assertEqual(one[name], other[name])
        self.assertEqual((one["Runtime"], one["Handler"], one["MemorySize"]), ("provided.al2023", "bootstrap", 128))
        self.assertLess(one["Timeout"], 5, "Cognito waits 5 s")
        self.assertEqual([one["FunctionName"], other["FunctionName"]], ["userhub-signin", "userhub-signin-queue"])
        for properties, group in [(one, "LogGroup"), (other, "QueueLogGroup")]:
            self.assertNotIn("ReservedConcurrentExecutions", properties)
            self.assertEqual(properties["LoggingConfig"], {
                "LogFormat": "JSON", "ApplicationLogLevel": "INFO", "LogGroup": f"<{group}>"})
            log_group = plan.properties(group)
            self.assertEqual((log_group["LogGroupName"], log_group["RetentionInDays"]),
                             (f"/aws/lambda/{properties['FunctionName']}", 30))

    def test_the_description_names_the_code(self):
        fixed = "Reports the sign-ins of a Cognito user pool to UserHub"
        self.assertEqual(Plan().properties("Function")["Description"], fixed)
        longest = Plan(CodeVersion=128 * "x", FunctionName=58 * "f")
        self.assertEqual(longest.properties("Function")["Description"], f"{fixed} ({128 * 'x'})")
        for name in ["Function", "QueueFunction"]:
            self.assertLessEqual(len(longest.properties(name)["Description"]), 256)
        self.assertLessEqual(len(longest.properties("QueueFunction")["FunctionName"]), 64)

    def test_each_role_may_do_what_its_function_needs_and_nothing_else(self):
        def allowed(role, **parameters):
            found = Plan(**parameters).statements(role)
            self.assertEqual({statement["Effect"] for statement in found}, {"Allow"})
            return {action: statement["Resource"] for statement in found for action in (
                statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]])}

        def logs(function):
            stream = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{function}:log-stream:*"
            return {"logs:CreateLogStream": stream, "logs:PutLogEvents": stream}

        sends = {"sqs:SendMessage": "<ReportQueue.Arn>"}
        receives = dict.fromkeys(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"],
                                 "<ReportQueue.Arn>")
        decrypts = {"kms:Decrypt": KMS_KEY}
        self.assertEqual(allowed("Role"), logs("userhub-signin") | sends)
        self.assertEqual(allowed("Role", Queue="no", KmsKeyArn=KMS_KEY), logs("userhub-signin") | decrypts)
        self.assertEqual(allowed("Role", ReportVia="queue", KmsKeyArn=KMS_KEY), logs("userhub-signin") | sends)
        self.assertEqual(allowed("QueueRole", KmsKeyArn=KMS_KEY), logs("userhub-signin-queue") | receives | decrypts)

    def test_all_identities_have_the_permissions_boundary(self):
        for template, identities in [(TEMPLATE, {"Role", "QueueRole"}), (CONNECTION, {"ConnectionIamUser"})]:
            self.assertEqual({name for name, resource in template["Resources"].items()
                              if resource["Type"] in {"AWS::IAM::Role", "AWS::IAM::User"}}, identities)
            for name in identities:
                for boundary in ["", BOUNDARY]:
                    properties = Plan(template, PermissionsBoundaryArn=boundary).properties(name)
                    self.assertEqual(properties.get("PermissionsBoundary"), boundary or None, name)

    def test_cognito_may_invoke_for_this_pool_alone(self):
        for pool in [POOL, "*"]:
            self.assertEqual(Plan(UserPoolId=pool).properties("CognitoPermission"), {
                "FunctionName": "<Function>", "Action": "lambda:InvokeFunction", "SourceAccount": ACCOUNT,
                "Principal": "cognito-idp.amazonaws.com", "SourceArn": POOL_ARN.replace(POOL, pool)})


class Queues(unittest.TestCase):
    def test_messages_stay_for_14_days_encrypted_and_survive_an_outage_of_a_day(self):
        plan = Plan()
        queue, given_up = plan.properties("ReportQueue"), plan.properties("DeadLetterQueue")
        for properties in [queue, given_up]:
            self.assertEqual((properties["MessageRetentionPeriod"], properties["SqsManagedSseEnabled"]),
                             (14 * 24 * 3600, True))
        self.assertGreaterEqual(queue["VisibilityTimeout"], 6 * plan.properties("QueueFunction")["Timeout"],
                                "AWS's advice for a queue in front of a function")
        self.assertGreater(queue["VisibilityTimeout"] * queue["RedrivePolicy"]["maxReceiveCount"], 24 * 3600)
        self.assertEqual(queue["RedrivePolicy"]["deadLetterTargetArn"], "<DeadLetterQueue.Arn>")
        self.assertEqual(given_up["RedriveAllowPolicy"], {
            "redrivePermission": "byQueue",
            "sourceQueueArns": [f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue['QueueName']}"]})

    def test_nobody_reaches_them_without_tls(self):
        plan = Plan()
        for policy, queue in [("QueuePolicy", "ReportQueue"), ("DeadLetterQueuePolicy", "DeadLetterQueue")]:
            properties = plan.properties(policy)
            [statement] = properties["PolicyDocument"]["Statement"]
            self.assertEqual(properties["Queues"], [f"<{queue}>"])
            self.assertEqual((statement["Effect"], statement["Principal"], statement["Action"], statement["Resource"]),
                             ("Deny", "*", "sqs:*", f"<{queue}.Arn>"))
            self.assertEqual(statement["Condition"], {"Bool": {"aws:SecureTransport": "false"}})

    def test_the_mapping_keeps_what_stays_and_takes_few_executions(self):
        self.assertEqual(Plan().properties("QueueMapping"), {
            "EventSourceArn": "<ReportQueue.Arn>", "FunctionName": "<QueueFunction>", "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"], "ScalingConfig": {"MaximumConcurrency": 2}})


class Watching(unittest.TestCase):
    GUIDE = (ROOT / "docs/operate.md").read_text()

    def alarms(self, **parameters):
        plan = Plan(**parameters)
        found = [plan.properties(name) for name in plan.created if name.endswith("Alarm")]
        return {alarm["AlarmName"].removeprefix("userhub-signin-"): alarm for alarm in found}

    def test_the_alarms(self):
        alarms = self.alarms(**EVERYTHING)
        self.assertEqual(set(alarms), {"not-reported", "waiting", "given-up", "errors", "throttles", "duration"})
        self.assertEqual(set(self.alarms(Queue="no")), {"not-reported", "errors", "throttles", "duration"})
        for name, alarm in alarms.items():
            takes("cloudwatch", "PutMetricAlarm", {**alarm, "Threshold": float(alarm["Threshold"])})
            self.assertEqual((alarm["AlarmActions"], alarm["OKActions"]), ([TOPIC], [TOPIC]))
            self.assertEqual(alarm["TreatMissingData"], "notBreaching", "nobody signs in at night")
            self.assertLessEqual(len(alarm["AlarmDescription"]), 1024, "CloudWatch takes no more")
            if name in {"errors", "throttles", "duration"}:
                self.assertEqual((alarm["Namespace"], alarm["Dimensions"]),
                                 ("AWS/Lambda", [{"Name": "FunctionName", "Value": "<Function>"}]))
        self.assertLess(alarms["duration"]["Threshold"], 1000 * Plan().properties("Function")["Timeout"])
        self.assertEqual([int(self.alarms(NotReportedThreshold=count)["not-reported"]["Threshold"])
                          for count in ["1", "5"]], [1, 5])

    def test_what_blocks_sign_ins_names_the_command_that_restores_them(self):
        for pool, command in [
            (POOL, f"python3 userhub-signin.pyz detach {POOL} --name userhub-signin"),
            ("*", "python3 userhub-signin.pyz detach --name userhub-signin, followed by the id of the pool,"),
        ]:
            alarms = self.alarms(UserPoolId=pool)
            self.assertEqual({name for name, alarm in alarms.items() if command in alarm["AlarmDescription"]},
                             {"errors", "throttles", "duration"})
            self.assertNotIn("detach *", json.dumps(alarms))

    def test_given_up_messages_have_the_command_that_sends_them_back(self):
        self.assertRegex(self.alarms()["given-up"]["AlarmDescription"],
                         r"aws sqs start-message-move-task --region eu-west-1 --source-arn <DeadLetterQueue\.Arn>$")

    def test_the_alarms_cite_headings_that_exist(self):
        cited = re.findall(r'docs/operate\.md, "([^"]+)"', json.dumps(self.alarms()).replace("\\", ""))
        self.assertEqual(len(cited), 2)
        for heading in cited:
            self.assertIn(f"\n## {heading}\n", self.GUIDE)

    def test_the_saved_queries_ask_both_logs_for_fields_that_lines_have(self):
        table = self.GUIDE.split("\n## Log fields\n")[1].split("\n## ")[0]
        fields = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
        language = {"filter", "ispresent", "stats", "count", "pct", "max", "bin", "as", "by", "log"}
        asked, plan = set(), Plan()
        for name in QUERIES | {"WaitsQuery"}:
            query = plan.properties(name)
            self.assertRegex(query["Name"], "^userhub-signin/[a-z]+$")
            groups = [group for group in query["LogGroupNames"] if group]
            self.assertEqual(groups, ["<QueueLogGroup>"] if name == "WaitsQuery" else ["<LogGroup>", "<QueueLogGroup>"])
            takes("logs", "PutQueryDefinition", {
                key[0].lower() + key[1:]: value for key, value in query.items() if key != "LogGroupNames"})
            words = set(re.findall(r"\b[a-z_]\w*", query["QueryString"]))
            asked |= words - language - set(re.findall(r" as (\w+)", query["QueryString"]))
        self.assertEqual(asked, {"outcome", "error_kind", "duration_ms", "waited_ms", "event_type", "trigger_source"})
        self.assertLessEqual(asked, fields)

    def test_the_metrics_count_the_lines_that_they_are_meant_for(self):
        plan, filters = Plan(), {}
        for name, group, metric in [
            ("NotReportedMetric", "LogGroup", "SignInsNotReported"),
            ("QueueNotReportedMetric", "QueueLogGroup", "SignInsNotReported"),
            ("WaitingMetric", "QueueLogGroup", "ReportsWaiting"),
        ]:
            properties = plan.properties(name)
            [transformation] = properties["MetricTransformations"]
            self.assertEqual(transformation, {"MetricNamespace": "UserHub/userhub-signin", "MetricName": metric,
                                              "MetricValue": "1", "Unit": "Count"})
            self.assertEqual(properties["LogGroupName"], f"<{group}>")
            filters[name] = properties["FilterPattern"]
        alarm = plan.properties("NotReportedAlarm")
        self.assertEqual((alarm["Namespace"], alarm["MetricName"]), ("UserHub/userhub-signin", "SignInsNotReported"))
        self.assertIn({"Namespace": "UserHub/userhub-signin", "MetricName": "ReportsWaiting"},
                      [metric["MetricStat"]["Metric"] for metric in plan.properties("WaitingAlarm")["Metrics"]
                       if "MetricStat" in metric])

        kinds = set()
        for outcome, lines in real_lines():
            for line in lines:
                for name in ["NotReportedMetric", "QueueNotReportedMetric"]:
                    self.assertEqual(matches(filters[name], line), line.get("outcome") == "not_reported", line)
            [about_sign_in] = [line for line in lines if "outcome" in line]
            self.assertEqual(about_sign_in["outcome"], outcome)
            kinds.add(about_sign_in.get("error_kind", outcome))
        self.assertEqual(kinds, {"reported", "settings", "event", "circuit_open", "connect", "timed_out", "rejected",
                                 "rate_limited", "unavailable", "unexpected_answer", "panic"})
        for line, counts in [({"outcome": "queued", "waited_ms": 900001}, True), ({"outcome": "queued"}, False),
                             ({"outcome": "queued", "waited_ms": 900000}, False),
                             ({"outcome": "reported", "waited_ms": 900001}, False)]:
            self.assertEqual(matches(filters["WaitingMetric"], line), counts, line)


def matches(pattern, line):
    """Whether CloudWatch Logs' filter pattern matches a JSON line.

    Of the pattern syntax this knows { $.field = "text" && $.field > number }: equal strings match, without wildcards.
    Source: "Filter pattern syntax for metric filters" in the Amazon CloudWatch Logs User Guide.
    """
    for condition in re.fullmatch(r"\{ (.*) \}", pattern)[1].split(" && "):
        field, text, number = re.fullmatch(r'\$\.(\w+) (?:= "([^"*%]*)"|> (\d+))', condition).groups()
        if line.get(field, 0) <= int(number) if number else line.get(field) != text:
            return False
    return True


def real_lines():
    """What the release binary logs in one sign-in of every kind: the outcome that is due, and the lines."""
    def lines(events, base_url="http://127.0.0.1:1", settings=SETTINGS, before_the_last=lambda function: None):
        function = Lambda(base_url, settings=settings)
        for count, event in enumerate(events, start=1):
            if count == len(events):
                before_the_last(function)
                del function.lines[:]
            function.invoke(event)
        function.wait_for('"outcome"')
        function.stop()
        return [json.loads(line) for line in function.lines if line.startswith("{")]

    event = (ROOT / "events/console-test.json").read_bytes().strip()
    for fault in [None, "hang", "reset", "302", "401", "429", "500"]:
        userhub = UserHub(fault)
        yield "not_reported" if fault else "reported", lines([event], userhub.base_url)
        userhub.end()
    userhub = UserHub("hang")
    yield "not_reported", lines(3 * [event], userhub.base_url)  # the second one opens the circuit
    userhub.end()
    yield "not_reported", lines([event], settings={})
    yield "not_reported", lines([b"{}"])
    # Looking up a name takes a thread, and tokio panics where it gets none. The first event has no user to report.
    yield "not_reported", lines([b"{}", event], "http://localhost:1", before_the_last=starve)


def starve(function):
    """Leaves the function's process no memory for a thread."""
    emulator = run("pgrep", "--parent", function.process.pid).stdout.strip()
    pid = int(run("pgrep", "--parent", emulator).stdout)
    with open(f"/proc/{pid}/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))  # a stack takes 2 MiB


class Connection(unittest.TestCase):
    """connection.yaml"""

    def test_the_user_manages_or_reads_the_users_of_this_pool_and_nothing_else(self):
        changes = {"AdminCreateUser", "AdminUpdateUserAttributes", "AdminDeleteUserAttributes", "AdminEnableUser",
                   "AdminDisableUser", "AdminDeleteUser"}
        known = set(boto3.client("cognito-idp", REGION).meta.service_model.operation_names)
        for access, expected in [("manage", changes), ("read", set())]:
            statements = Plan(CONNECTION, Access=access).statements("ConnectionIamUser")
            self.assertEqual({statement["Resource"] for statement in statements}, {POOL_ARN})
            actions = {action.removeprefix("cognito-idp:") for statement in statements
                       for action in statement["Action"]}
            self.assertLessEqual(actions, known, "a misspelt action permits nothing")
            self.assertEqual({action for action in actions if not re.match("(Admin)?(List|Get|Describe)[A-Z]", action)},
                             expected)
            self.assertLessEqual({"ListUsers", "AdminGetUser"}, actions)

    def test_its_key_is_in_a_secret(self):
        plan = Plan(CONNECTION)
        self.assertEqual(plan.created, {"ConnectionIamUser", "ConnectionAccessKey", "ConnectionAccessKeySecret"})
        secret = plan.properties("ConnectionAccessKeySecret")
        takes("secretsmanager", "CreateSecret", {"Name": "key", **secret})
        self.assertEqual(json.loads(secret["SecretString"]), {
            "accessKeyId": "<ConnectionAccessKey>", "secretAccessKey": "<ConnectionAccessKey.SecretAccessKey>"})

    def test_the_portals_app_client(self):
        plan = Plan(CONNECTION, **CONNECTION_EVERYTHING)
        client = plan.properties("PortalClient")
        takes("cognito-idp", "CreateUserPoolClient", client)
        for name, value in {
            "GenerateSecret": True, "AllowedOAuthFlowsUserPoolClient": True, "AllowedOAuthFlows": ["code"],
            "AllowedOAuthScopes": ["email", "openid", "phone"], "SupportedIdentityProviders": ["COGNITO", "Google"],
            "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH", "ALLOW_USER_AUTH"],
            "CallbackURLs": ["https://portal.example.com/signin"], "LogoutURLs": ["https://portal.example.com/signout"],
        }.items():
            self.assertEqual(client[name], value, name)
        style = plan.properties("PortalStyle")
        takes("cognito-idp", "CreateManagedLoginBranding", style)
        self.assertEqual(style, {"UserPoolId": POOL, "ClientId": "<PortalClient>", "UseCognitoProvidedValues": True})
        plain = Plan(CONNECTION, **PORTAL)
        self.assertNotIn("PortalStyle", plain.created)
        self.assertNotIn("ALLOW_USER_AUTH", plain.properties("PortalClient")["ExplicitAuthFlows"])
        self.assertEqual(clean_json(CONNECTION["Outputs"]["PortalIssuerUrl"]["Value"], plain.stack),
                         f"https://cognito-idp.{REGION}.amazonaws.com/{POOL}")


class Sam(unittest.TestCase):
    """The templates as SAM builds and deploys them, and in an emulator of AWS."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        run(ROOT / ".tools/bin/sam", "build", "--build-dir", cls.folder / ".aws-sam/build", environment={
            "PATH": f"{ROOT}/.tools/bin:{os.environ['PATH']}",
            # In a third of the time: the other tests are about the binary, and this one is about SAM.
            "CARGO_TARGET_DIR": str(ROOT / "target/sam"), "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16", "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0"})
        cls.aws = Ministack()
        cls.addClassCleanup(cls.aws.stop)

    def test_sams_own_questions_deploy_it_and_do_not_keep_the_key(self):
        said, code = talk([str(ROOT / ".tools/bin/sam"), "deploy", "--guided"], self.folder,
                          {"AWS_ENDPOINT_URL": self.aws.url},
                          {"Stack Name": "signin", "UserPoolId": POOL, "AdminKey": KEY})
        self.assertEqual(code, 0, said)
        self.assertNotIn(KEY, said)
        self.assertNotIn(KEY, (self.folder / "samconfig.toml").read_text())
        functions = {function["FunctionName"]: function["Environment"]["Variables"]
                     for function in self.aws.client("lambda").list_functions()["Functions"]}
        self.assertEqual(functions["userhub-signin-queue"], {"USERHUB_ADMIN_KEY": KEY})
        self.assertRegex(functions["userhub-signin"].pop("USERHUB_QUEUE_URL"), f"/{ACCOUNT}/userhub-signin$")
        self.assertEqual(functions["userhub-signin"], {"USERHUB_ADMIN_KEY": KEY})

    def test_the_built_functions_report(self):
        for name in ["Function", "QueueFunction"]:
            userhub = UserHub()
            function = Lambda(userhub.base_url, binary=self.folder / ".aws-sam/build" / name / "bootstrap")
            event = (ROOT / "events/console-test.json").read_bytes().strip()
            self.assertEqual(function.invoke(event), event)
            function.stop()
            self.assertEqual(userhub.end(), ["testName"])

    def test_the_connections_stack(self):
        cloudformation = self.aws.client("cloudformation")
        pool = self.aws.client("cognito-idp").create_user_pool(PoolName="pool")["UserPool"]["Id"]
        cloudformation.create_stack(
            StackName="connection", TemplateBody=CONNECTION_SOURCE, Capabilities=["CAPABILITY_IAM"], Parameters=[
                {"ParameterKey": name, "ParameterValue": value}
                for name, value in {**CONNECTION_EVERYTHING, "UserPoolId": pool}.items()])
        cloudformation.get_waiter("stack_create_complete").wait(StackName="connection", WaiterConfig={"Delay": 1})
        [stack] = cloudformation.describe_stacks(StackName="connection")["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.assertEqual(outputs["PortalIssuerUrl"], f"https://cognito-idp.{REGION}.amazonaws.com/{pool}")
        secret = self.aws.client("secretsmanager").get_secret_value(SecretId=outputs["AccessKeySecretArn"])
        [user] = self.aws.client("iam").list_users()["Users"]
        [key] = self.aws.client("iam").list_access_keys(UserName=user["UserName"])["AccessKeyMetadata"]
        self.assertEqual(json.loads(secret["SecretString"])["accessKeyId"], key["AccessKeyId"])
