"""template.yaml: through the linters, SAM, SAM's translator for every pair of options, and into moto's AWS."""

import ast
import copy
import itertools
import json
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
from support import (
    ACCOUNT,
    REGION,
    ROOT,
    SETTINGS,
    Aws,
    Lambda,
    Ministack,
    UserHub,
    aws,
    client,
    run,
    security_scan,
    talk,
    translated,
)

sys.path.insert(0, str(ROOT / "tools"))
from publish import names  # noqa: E402

TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
KEY = SETTINGS["USERHUB_ADMIN_KEY"]
POOL = "eu-west-1_AbCd12345"
POOL_ARN = f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{POOL}"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:userhub/key-AbCdEf"
VERSION = "1f0e2d3c-4b5a-4697-8877-665544332211"
KMS_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{VERSION}"
LAYER = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:certificates:1"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/boundary"
METRICS = {"NotReportedMetric", "UserHubDownMetric"}
ALARMS = {"NotReportedAlarm", "UserHubDownAlarm", "ErrorsAlarm", "ThrottlesAlarm", "DurationAlarm"}
QUERIES = {"OutcomesQuery", "DurationsQuery", "SourcesQuery"}
PORTAL = {"PortalDomain": "portal.example.com"}


def secret_reference(json_key="", version=""):
    return {"USERHUB_ADMIN_KEY": f"{{{{resolve:secretsmanager:{SECRET}:SecretString:{json_key}::{version}}}}}"}


# Every choice that there is, its default first, and what it adds: (parameters, resources, variables).
CHOICES = [
    [({"AdminKey": KEY}, set(), {"USERHUB_ADMIN_KEY": KEY}),
     ({"AdminKeySecretArn": SECRET, "AdminKey": "none"}, set(), secret_reference()),
     ({"AdminKeySecretArn": SECRET, "AdminKeySecretVersionId": VERSION}, set(), secret_reference(version=VERSION)),
     ({"AdminKeySecretArn": SECRET, "AdminKeySecretJsonKey": "key"}, set(), secret_reference("key")),
     ({"AdminKeySecretArn": SECRET, "AdminKeySecretJsonKey": "key", "AdminKeySecretVersionId": VERSION}, set(),
      secret_reference("key", VERSION))],
    [({}, set(), {}), ({"ConnectionId": "conn_x"}, set(), {"AMAZON_COGNITO_CONNECTION_ID": "conn_x"})],
    [({}, set(), {}), ({"BaseUrl": "https://api.example.com"}, set(), {"USERHUB_BASE_URL": "https://api.example.com"})],
    [({}, set(), {}), ({"Report": "after-response"}, set(), {"USERHUB_REPORT": "after-response"})],
    [({}, set(), {}), ({"ExtraCaCerts": "/opt/ca.pem", "ExtraCaCertsLayerArn": LAYER}, set(),
                       {"USERHUB_EXTRA_CA_CERTS": "/opt/ca.pem"})],
    [({}, set(), {}), ({"KmsKeyArn": KMS_KEY}, {"DecryptPolicy"}, {})],
    [({}, METRICS | ALARMS, {}), ({"AlarmTopicArn": TOPIC, "NotReportedThreshold": "5"}, METRICS | ALARMS, {}),
     ({"Alarms": "no"}, set(), {})],
    [({}, QUERIES, {}), ({"SavedQueries": "no"}, set(), {})],
    [({}, set(), {}), (PORTAL, {"PortalClient"}, {}),
     ({**PORTAL, "PortalManagedLogin": "yes"}, {"PortalClient", "PortalStyle"}, {}),
     ({**PORTAL, "PortalChoiceBasedSignIn": "yes"}, {"PortalClient"}, {}),
     ({**PORTAL, "PortalManagedLogin": "yes", "PortalChoiceBasedSignIn": "yes"}, {"PortalClient", "PortalStyle"}, {})],
    [({}, set(), {}), ({"ConnectionUser": "yes"},
                       {"ConnectionIamUser", "ConnectionAccessKey", "ConnectionAccessKeySecret"}, {})],
    [({}, set(), {}), ({"PermissionsBoundaryArn": BOUNDARY}, set(), {})],
    [({}, set(), {}), ({"CodeVersion": "0.1.0"}, set(), {})],
    [({}, set(), {}), ({"Architecture": "arm64"}, set(), {})],
]
ALWAYS = {"Function", "Role", "LogGroup", "CognitoPermission"}
EVERYTHING = {
    "UserPoolId": POOL, "ConnectionId": "conn_x", "AdminKey": KEY, "AlarmTopicArn": TOPIC, "NotReportedThreshold": "3",
    "KmsKeyArn": KMS_KEY, "PermissionsBoundaryArn": BOUNDARY, "CodeVersion": "0.1.0, sha256 4fd8", **PORTAL,
    "PortalIdentityProviders": "COGNITO,Google", "PortalManagedLogin": "yes", "PortalChoiceBasedSignIn": "yes",
    "ConnectionUser": "yes",
}


def evaluated(template, parameters):
    """moto's CloudFormation with these parameters, before it creates anything."""
    stack = ResourceMap("id", "stack", dict(parameters), {}, REGION, ACCOUNT, template, {})
    stack.load()
    return stack


def planned(**parameters):
    """The plain template with these parameters, the names of what it creates, and what its expressions come to."""
    parameters = {"UserPoolId": POOL, "AdminKey": KEY, **parameters}
    template = translated(without_code(TEMPLATE), parameters)
    stack = evaluated(template, parameters)
    created = {name for name, resource in template["Resources"].items()
               if "Condition" not in resource or stack.lazy_condition_map[resource["Condition"]]}
    return template, created, stack


def planned_property(resource, name, **parameters):
    """One property of a resource; None if it is left out."""
    template, created, stack = planned(**parameters)
    assert resource in created, resource
    return clean_json(template["Resources"][resource]["Properties"][name], stack)


def pairs(choices):
    """All defaults, every option alone, and every two options of different choices together.

    All combinations would be 76,800. No resource and no variable depends on more than two choices: DurationAlarm
    on Alarms and Report, all others on one.
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


def without_code(template):
    """The template as `sam package` would leave it."""
    packaged = copy.deepcopy(template)
    packaged["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/key"
    return packaged


def with_defaults(source, values):
    for name, value in values.items():
        source, changed = re.subn(rf"(\n  {name}:\n(?:    .*\n)*?    Default:).*", rf'\1 "{value}"', source)
        assert changed == 1 or "Default" not in TEMPLATE["Parameters"][name], name
    return source


class Source(unittest.TestCase):
    def test_the_linters_find_nothing(self):
        self.assertEqual(run("cfn-lint", "template.yaml").stdout, "")
        self.assertIn("is a valid SAM Template", run("sam", "validate", "--lint").stdout)

    def test_the_security_scan_finds_nothing_without_a_reason(self):
        source = (ROOT / "template.yaml").read_text()
        noted = dict(re.findall(r"checkov:skip=(\w+):(.+)", source))
        skipped = {}
        # checkov looks at what the defaults create, so it looks once more with everything in the defaults.
        for template in [source, with_defaults(source, EVERYTHING)]:
            scan = security_scan(template, ".yaml", "cloudformation")
            self.assertEqual([(found["check_id"], found["resource"]) for found in scan["failed_checks"]], [])
            self.assertGreater(len(scan["passed_checks"]), 10)
            skipped |= {skip["check_id"]: skip["check_result"]["suppress_comment"] for skip in scan["skipped_checks"]}
        self.assertEqual(skipped, noted, "every accepted finding has its reason, and every reason its finding")

    def test_every_parameter_is_described_and_has_a_pattern_or_values(self):
        for name, parameter in TEMPLATE["Parameters"].items():
            with self.subTest(name):
                self.assertGreater(len(parameter["Description"]), 20)
                self.assertTrue(parameter.keys() & {"AllowedValues", "AllowedPattern", "MinValue"})
                self.assertRegex(parameter["ConstraintDescription"], "^must be ", "the name comes before it")
                self.assertEqual("Default" in parameter, name != "UserPoolId")
                self.assertEqual(parameter.get("NoEcho", False), name == "AdminKey")
        grouped = [name for group in TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
                   for name in group["Parameters"]]
        self.assertEqual(sorted(grouped), sorted(TEMPLATE["Parameters"]))

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
            ("ExtraCaCerts", ["", "/opt/certificates/ca.pem"], ["ca.pem", "/etc/ca.pem"]),
            ("ExtraCaCertsLayerArn", ["", LAYER], ["certificates", LAYER[:-2]]),
            ("FunctionName", ["userhub-signin", "a"], ["", "a b", "a:b", "x" * 65]),
            ("CodeVersion", ["", "0.1.0", "0.1.0, sha256 " + 64 * "f", "0.1.0, sha256 q+/=", 128 * "x"],
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
            pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
            for value in good:
                self.assertRegex(value, pattern, name)
            for value in bad:
                self.assertIsNone(re.search(pattern.replace("$", r"\Z"), value), (name, value))

    def test_rules_refuse_contradictions(self):
        def refusals(**parameters):
            stack = evaluated(translated(without_code(TEMPLATE), {}), {"UserPoolId": POOL, **parameters})
            return [
                assertion["AssertDescription"]
                for rule in TEMPLATE["Rules"].values()
                if parse_condition(rule.get("RuleCondition", True), stack, {})
                for assertion in rule["Assertions"]
                if not parse_condition(assertion["Assert"], stack, {})
            ]

        for parameters, expected in [
            ({"AdminKey": KEY}, None),
            ({"AdminKeySecretArn": SECRET}, None),
            ({"AdminKeySecretArn": SECRET, "AdminKey": "none"}, None),
            ({"AdminKeySecretArn": SECRET, "AdminKeySecretVersionId": VERSION}, None),
            ({"AdminKey": KEY, "ExtraCaCerts": "/opt/ca.pem", "ExtraCaCertsLayerArn": LAYER}, None),
            ({"AdminKey": KEY, "AlarmTopicArn": TOPIC}, None),
            ({"AdminKeySecretArn": SECRET, "AdminKeySecretJsonKey": "key"}, None),
            ({"AdminKey": KEY, **PORTAL, "PortalManagedLogin": "yes"}, None),
            ({"AdminKey": KEY, **PORTAL, "PortalChoiceBasedSignIn": "yes"}, None),
            ({}, "Give UserHub's Admin API key"),
            ({"AdminKey": "none"}, "Give UserHub's Admin API key"),
            ({"AdminKey": KEY, "AdminKeySecretArn": SECRET}, "not both"),
            ({"AdminKey": KEY, "AdminKeySecretVersionId": VERSION}, "so give AdminKeySecretArn"),
            ({"AdminKey": KEY, "AdminKeySecretJsonKey": "key"}, "so give AdminKeySecretArn"),
            ({"AdminKey": KEY, "PortalManagedLogin": "yes"}, "so give PortalDomain"),
            ({"AdminKey": KEY, "PortalChoiceBasedSignIn": "yes"}, "so give PortalDomain"),
            ({"AdminKey": KEY, "ExtraCaCerts": "/opt/ca.pem"}, "or neither"),
            ({"AdminKey": KEY, "ExtraCaCertsLayerArn": LAYER}, "or neither"),
            ({"AdminKey": KEY, "Alarms": "no", "AlarmTopicArn": TOPIC}, "set Alarms to yes"),
        ]:
            with self.subTest(parameters):
                found = refusals(**parameters)
                self.assertEqual(len(found), 1 if expected else 0, found)
                self.assertIn(expected or "", "".join(found))

    def test_every_pair_of_options(self):
        for choice in [*pairs(CHOICES), [options[-1] for options in CHOICES]]:
            parameters, resources, variables = {}, set(ALWAYS), {}
            for more_parameters, more_resources, more_variables in choice:
                parameters.update(more_parameters)
                resources |= more_resources
                variables.update(more_variables)
            if parameters.get("Report") == "after-response":
                resources.discard("DurationAlarm")
            parameters = {"AdminKey": "", **parameters}
            template, created, stack = planned(**parameters)
            self.assertEqual(created, resources, parameters)
            function = template["Resources"]["Function"]["Properties"]
            environment = clean_json(function["Environment"], stack)["Variables"]
            self.assertEqual({name: value for name, value in environment.items() if value is not None}, variables)
            for output in template["Outputs"].values():
                if "Condition" not in output or stack.lazy_condition_map[output["Condition"]]:
                    self.assertLessEqual(names(output["Value"]), created | {"UserPoolId", "FunctionName"})

    def test_what_the_pool_still_calls_stays_when_its_name_changes(self):
        template, _, _ = planned()
        policies = {name: (resource.get("UpdateReplacePolicy"), resource.get("DeletionPolicy"))
                    for name, resource in template["Resources"].items()}
        self.assertEqual(template["Resources"]["Function"]["Type"], "AWS::Lambda::Function")
        self.assertEqual({name: policy for name, policy in policies.items() if policy != (None, None)},
                         {name: ("Retain", "Delete") for name in ALWAYS})

    def test_the_description_names_the_code(self):
        fixed = "Reports the sign-ins of a Cognito user pool to UserHub"
        self.assertEqual(planned_property("Function", "Description"), fixed)
        self.assertEqual(planned_property("Function", "Description", CodeVersion="0.1.0, sha256 4fd8"),
                         f"{fixed} (0.1.0, sha256 4fd8)")
        self.assertLessEqual(len(planned_property("Function", "Description", CodeVersion=128 * "x")), 256)

    def test_all_identities_have_the_permissions_boundary(self):
        template, created, _ = planned(ConnectionUser="yes")
        identities = {name for name in created
                      if template["Resources"][name]["Type"] in {"AWS::IAM::Role", "AWS::IAM::User"}}
        self.assertEqual(identities, {"Role", "ConnectionIamUser"})
        for name in identities:
            for boundary in [None, BOUNDARY]:
                self.assertEqual(planned_property(name, "PermissionsBoundary", ConnectionUser="yes",
                                                  PermissionsBoundaryArn=boundary or ""), boundary, name)

    def test_the_alarms_say_what_is_true_in_either_report_mode(self):
        guide = (ROOT / "docs/operate.md").read_text()
        for mode, count in [("before-response", 5), ("after-response", 4)]:
            template, created, stack = planned(Report=mode)
            self.assertEqual(len(created & ALARMS), count, mode)
            # Lambda's Duration includes what happens after the response.
            self.assertEqual("DurationAlarm" in created, mode == "before-response")
            descriptions = {name: clean_json(template["Resources"][name]["Properties"]["AlarmDescription"], stack)
                            for name in created & ALARMS}
            cut_off = "a late report that was cut off, after its sign-in had succeeded"
            self.assertEqual([name for name, text in descriptions.items() if cut_off in text],
                             ["ErrorsAlarm"] if mode == "after-response" else [])
            for name, text in descriptions.items():
                self.assertLessEqual(len(text), 1024, "CloudWatch takes no more")
                self.assertNotIn("README", text)
                cited = re.findall(r'docs/operate\.md, "([^"]+)"', text)
                self.assertEqual(bool(cited), name in {"NotReportedAlarm", "UserHubDownAlarm"})
                for heading in cited:
                    self.assertIn(f"\n## {heading}\n", guide)
            self.assertRegex(descriptions["UserHubDownAlarm"], "UserHub does not answer.*Sign-ins work.*not reported")

    def test_the_threshold_counts_sign_ins_in_each_period(self):
        self.assertEqual(planned_property("NotReportedAlarm", "Threshold"), 1)
        self.assertEqual(planned_property("NotReportedAlarm", "Threshold", NotReportedThreshold="5"), 5)
        parameter = TEMPLATE["Parameters"]["NotReportedThreshold"]
        self.assertEqual((parameter["Type"], parameter["MinValue"]), ("Number", 1))

    def test_the_saved_queries_ask_for_fields_that_lines_have(self):
        table = (ROOT / "docs/operate.md").read_text().split("\n## Log fields\n")[1].split("\n## ")[0]
        fields = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
        language = {"filter", "ispresent", "stats", "count", "pct", "max", "bin", "as", "by"}
        asked = set()
        for name in QUERIES:
            query = {key: planned_property(name, key) for key in ["Name", "QueryString"]}
            self.assertRegex(query["Name"], "^userhub-signin/[a-z]+$")
            self.assertEqual(TEMPLATE["Resources"][name]["Properties"]["LogGroupNames"], [{"Ref": "LogGroup"}])
            takes("logs", "PutQueryDefinition", {key[0].lower() + key[1:]: value for key, value in query.items()})
            words = set(re.findall(r"\b[a-z_]\w*", query["QueryString"]))
            asked |= words - language - set(re.findall(r" as (\w+)", query["QueryString"]))
        self.assertEqual(asked, {"outcome", "error_kind", "duration_ms", "event_type", "trigger_source"})
        self.assertLessEqual(asked, fields)

    def test_the_portals_client_takes_choices_only_if_asked(self):
        for choice in ["no", "yes"]:
            flows = planned_property("PortalClient", "ExplicitAuthFlows", **PORTAL, PortalChoiceBasedSignIn=choice)
            self.assertEqual("ALLOW_USER_AUTH" in flows, choice == "yes")
            self.assertLessEqual({"ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"}, set(flows))

    def test_outputs_hold_what_the_portal_needs_and_no_secret(self):
        template, _, stack = planned(**PORTAL)
        self.assertEqual(clean_json(template["Outputs"]["PortalIssuerUrl"]["Value"], stack),
                         f"https://cognito-idp.{REGION}.amazonaws.com/{POOL}")
        for output in TEMPLATE["Outputs"].values():
            self.assertIsNone(re.search("AdminKey|SecretAccessKey|ClientSecret|resolve:", json.dumps(output["Value"])))


def takes(service, operation, arguments):
    """Fails if AWS's description of the operation does not fit the arguments."""
    shape = boto3.client(service, REGION).meta.service_model.operation_model(operation).input_shape
    report = botocore.validate.ParamValidator().validate(arguments, shape)
    assert not report.has_errors(), report.generate_report()


class Deployed(unittest.TestCase):
    """The template as SAM builds and packages it, in moto with every option on."""

    @classmethod
    def setUpClass(cls):
        run("make", "sam-build")
        cls.aws = Aws()
        cls.addClassCleanup(cls.aws.stop)
        folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, folder)
        environment = {"AWS_ENDPOINT_URL": cls.aws.url}
        cls.aws.client("s3").create_bucket(
            Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
        run("sam", "package", "--s3-bucket", "bucket", "--template-file", ".aws-sam/build/template.yaml",
            "--output-template-file", f"{folder}/packaged.yaml", environment=environment)
        with open(f"{folder}/packaged.yaml") as packaged:
            cls.template = translated(yaml_parse(packaged.read()), EVERYTHING)
        cls.path = f"{folder}/template.json"
        with open(cls.path, "w") as file:
            json.dump(cls.template, file)
        run("aws", "cloudformation", "deploy", "--stack-name", "stack", "--template-file", cls.path, "--capabilities",
            "CAPABILITY_IAM", "--parameter-overrides", *[f"{name}={value}" for name, value in EVERYTHING.items()],
            environment=environment)
        cls.addClassCleanup(lambda: cls.aws.client("cloudformation").delete_stack(StackName="stack"))
        [stack] = [stack for stack in cls.aws.stacks() if stack.name == "stack"]
        cls.stack = stack.resource_map

    def ask(self, *arguments):
        return aws(self.aws.url, *arguments)

    def properties(self, name):
        """A resource's properties as CloudFormation would hand them to the service."""
        return clean_json(self.template["Resources"][name]["Properties"], self.stack)

    def test_the_translated_template_follows_cloudformations_schemas(self):
        self.assertEqual(run("cfn-lint", self.path).stdout, "")

    def test_sams_own_questions_deploy_it_and_do_not_keep_the_key(self):
        aws = Ministack()
        self.addCleanup(aws.stop)
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        shutil.copytree(ROOT / ".aws-sam", folder / ".aws-sam")
        said, code = talk(["sam", "deploy", "--guided"], folder, {"AWS_ENDPOINT_URL": aws.url}, {
            "Stack Name": "signin", "UserPoolId": POOL, "AdminKey": KEY, "SavedQueries": "no"})  # ministack has none
        self.assertEqual(code, 0, said)
        self.assertNotIn(KEY, said)
        self.assertNotIn(KEY, (folder / "samconfig.toml").read_text())
        [function] = client(aws.url, "lambda").list_functions()["Functions"]
        self.assertEqual(function["Environment"]["Variables"], {"USERHUB_ADMIN_KEY": KEY})

    def test_takes_no_other_processor_than_that_of_the_binary(self):
        built = yaml_parse((ROOT / ".aws-sam/build/template.yaml").read_text())["Parameters"]["Architecture"]
        self.assertEqual((built["AllowedValues"], built["Default"]), (["x86_64"], "x86_64"))

    def test_the_built_function_reports(self):
        userhub = UserHub()
        function = Lambda(userhub.base_url, binary=ROOT / ".aws-sam/build/Function/bootstrap")
        event = (ROOT / "events/minimal.json").read_bytes().strip()
        self.assertEqual(function.invoke(event), event)
        function.stop()
        self.assertEqual(userhub.end(), ["sample"])

    def test_the_function(self):
        function = self.ask("lambda", "get-function-configuration", "--function-name", "userhub-signin")
        self.assertEqual(function["Runtime"], "provided.al2023")
        self.assertEqual(function["Architectures"], ["x86_64"])
        self.assertLess(function["Timeout"], 5, "Cognito waits 5 s")
        self.assertIn("(0.1.0, sha256 4fd8)", function["Description"])
        self.assertEqual(function["Environment"]["Variables"], SETTINGS | {"AMAZON_COGNITO_CONNECTION_ID": "conn_x"})
        # moto leaves these out.
        properties = self.properties("Function")
        self.assertEqual(properties["KmsKeyArn"], KMS_KEY)
        self.assertEqual(properties["LoggingConfig"], {
            "LogFormat": "JSON", "ApplicationLogLevel": "INFO", "LogGroup": "/aws/lambda/userhub-signin"})
        self.assertNotIn("ReservedConcurrentExecutions", properties)

    def test_the_role_writes_its_own_logs_and_nothing_else(self):
        function = self.ask("lambda", "get-function-configuration", "--function-name", "userhub-signin")
        name = function["Role"].split("/")[-1]
        self.assertEqual(self.ask("iam", "list-attached-role-policies", "--role-name", name)["AttachedPolicies"], [])
        self.assertEqual(self.ask("iam", "list-role-policies", "--role-name", name)["PolicyNames"],
                         ["write-own-logs", "decrypt-own-environment"])
        policy = self.ask("iam", "get-role-policy", "--role-name", name, "--policy-name", "write-own-logs")
        document = policy["PolicyDocument"]
        if isinstance(document, str):  # moto writes down what came from a template as Python does
            document = ast.literal_eval(document)
        self.assertEqual(document["Statement"], [{
            "Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/userhub-signin:log-stream:*"}])
        decrypt = self.properties("DecryptPolicy")["PolicyDocument"]["Statement"]
        self.assertEqual(decrypt, [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": KMS_KEY}])

    def test_the_log_group_forgets(self):
        [group] = self.ask("logs", "describe-log-groups")["logGroups"]
        self.assertEqual((group["logGroupName"], group["retentionInDays"]), ("/aws/lambda/userhub-signin", 30))

    def test_cognito_may_invoke_for_this_pool_alone(self):
        policy = json.loads(self.ask("lambda", "get-policy", "--function-name", "userhub-signin")["Policy"])
        [statement] = policy["Statement"]
        self.assertEqual(statement["Principal"], {"Service": "cognito-idp.amazonaws.com"})
        self.assertEqual(statement["Action"], "lambda:InvokeFunction")
        self.assertEqual(statement["Condition"], {
            "ArnLike": {"AWS:SourceArn": POOL_ARN}, "StringEquals": {"AWS:SourceAccount": ACCOUNT}})

    def test_the_connections_user_manages_users_of_this_pool_and_nothing_else(self):
        [user] = self.ask("iam", "list-users")["Users"]
        self.assertEqual(set(self.properties("ConnectionIamUser")), {"PermissionsBoundary", "Policies"})
        [policy] = self.properties("ConnectionIamUser")["Policies"]  # moto leaves a user's policies out
        names = {"UserName": user["UserName"], "PolicyName": policy["PolicyName"]}
        iam = self.aws.client("iam")
        iam.put_user_policy(**names, PolicyDocument=json.dumps(policy["PolicyDocument"]))
        self.addCleanup(iam.delete_user_policy, **names)
        policy = self.ask("iam", "get-user-policy", "--user-name", user["UserName"], "--policy-name",
                          policy["PolicyName"])
        statements = policy["PolicyDocument"]["Statement"]
        actions = [action for statement in statements for action in (
            statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]])]
        self.assertEqual({statement["Resource"] for statement in statements}, {POOL_ARN})
        changes = {action for action in actions if not re.search(":(Admin)?(List|Get|Describe)[A-Z]", action)}
        self.assertEqual(changes, {f"cognito-idp:Admin{what}" for what in [
            "CreateUser", "UpdateUserAttributes", "DeleteUserAttributes", "EnableUser", "DisableUser", "DeleteUser"]})
        known = boto3.client("cognito-idp", REGION).meta.service_model.operation_names
        named = {action.split(":")[1] for action in actions}
        self.assertLessEqual(named, set(known), "a misspelt action permits nothing")

        [key] = self.ask("iam", "list-access-keys", "--user-name", user["UserName"])["AccessKeyMetadata"]
        secret = self.properties("ConnectionAccessKeySecret")
        arn = self.aws.client("secretsmanager").create_secret(Name="key", **secret)["ARN"]
        stored = json.loads(self.ask("secretsmanager", "get-secret-value", "--secret-id", arn)["SecretString"])
        self.assertEqual(stored["accessKeyId"], key["AccessKeyId"])
        self.assertGreater(len(stored["secretAccessKey"]), 20)

    def test_the_portals_app_client(self):
        cognito = self.aws.client("cognito-idp")
        pool = cognito.create_user_pool(PoolName="pool")["UserPool"]["Id"]
        cognito.create_user_pool_client(**{**self.properties("PortalClient"), "UserPoolId": pool})
        [listed] = self.ask("cognito-idp", "list-user-pool-clients", "--user-pool-id", pool)["UserPoolClients"]
        created = self.ask("cognito-idp", "describe-user-pool-client", "--user-pool-id", pool, "--client-id",
                           listed["ClientId"])["UserPoolClient"]
        self.assertTrue(created["ClientSecret"])
        for name, value in {
            "AllowedOAuthFlowsUserPoolClient": True, "AllowedOAuthFlows": ["code"],
            "AllowedOAuthScopes": ["email", "openid", "phone"], "SupportedIdentityProviders": ["COGNITO", "Google"],
            "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH", "ALLOW_USER_AUTH"],
            "CallbackURLs": ["https://portal.example.com/signin"], "LogoutURLs": ["https://portal.example.com/signout"],
        }.items():
            self.assertEqual(created[name], value, name)
        style = self.template["Resources"]["PortalStyle"]["Properties"]  # moto has none
        self.assertEqual(style, {
            "UserPoolId": {"Ref": "UserPoolId"}, "ClientId": {"Ref": "PortalClient"}, "UseCognitoProvidedValues": True})
        client = {"UserPoolId": pool, "ClientId": listed["ClientId"]}
        takes("cognito-idp", "CreateManagedLoginBranding", style | client)

    def test_the_alarms(self):
        cloudwatch = self.aws.client("cloudwatch")
        for name in ALARMS:
            properties = self.properties(name)
            cloudwatch.put_metric_alarm(**{**properties, "Threshold": float(properties["Threshold"])})
            self.addCleanup(cloudwatch.delete_alarms, AlarmNames=[self.properties(name)["AlarmName"]])
        alarms = {alarm["AlarmName"]: alarm for alarm in self.ask("cloudwatch", "describe-alarms")["MetricAlarms"]}
        self.assertEqual(set(alarms), {f"userhub-signin-{what}" for what in
                                       ["not-reported", "userhub-down", "errors", "throttles", "duration"]})
        for name, alarm in alarms.items():
            self.assertEqual(alarm["AlarmActions"], [TOPIC])
            self.assertEqual(alarm["TreatMissingData"], "notBreaching", "nobody signs in at night")
            self.assertIn("/aws/lambda/userhub-signin" if name != "userhub-signin-throttles" else "concurrency",
                          alarm["AlarmDescription"])
            if name not in {"userhub-signin-not-reported", "userhub-signin-userhub-down"}:
                self.assertEqual(alarm["Dimensions"], [{"Name": "FunctionName", "Value": "userhub-signin"}])
                self.assertEqual(alarm["Namespace"], "AWS/Lambda")
                self.assertIn(f"make detach USER_POOL_ID={POOL} FUNCTION=userhub-signin", alarm["AlarmDescription"])
        self.assertLess(alarms["userhub-signin-duration"]["Threshold"], 1000 * self.properties("Function")["Timeout"])
        self.assertEqual(alarms["userhub-signin-not-reported"]["Threshold"], 3)
        self.assertEqual(alarms["userhub-signin-userhub-down"]["Threshold"], 1)
        self.assertEqual(alarms["userhub-signin-userhub-down"]["Period"], 300)

    def test_the_metrics_count_the_sign_ins_that_were_not_reported_and_not_tried(self):
        logs = self.aws.client("logs")
        for what in ["NotReported", "UserHubDown"]:
            properties = self.properties(f"{what}Metric")
            [transformation] = properties["MetricTransformations"]
            logs.put_metric_filter(
                logGroupName=properties["LogGroupName"], filterName=what, filterPattern=properties["FilterPattern"],
                metricTransformations=[{name[0].lower() + name[1:]: value for name, value in transformation.items()}])
        filters = self.ask("logs", "describe-metric-filters")["metricFilters"]
        created = {metric["filterName"]: metric for metric in filters}
        for what, metric in created.items():
            alarm = self.properties(f"{what}Alarm")
            self.assertEqual(metric["metricTransformations"][0]["metricName"], alarm["MetricName"])
            self.assertEqual(metric["metricTransformations"][0]["metricNamespace"], alarm["Namespace"])
        self.assertEqual(len({metric["metricTransformations"][0]["metricName"] for metric in created.values()}), 2)

        kinds = set()
        for outcome, lines in real_lines():
            for line in lines:
                for what, is_counted in [("NotReported", line.get("outcome") == "not_reported"),
                                         ("UserHubDown", line.get("error_kind") == "circuit_open")]:
                    self.assertEqual(matches(created[what]["filterPattern"], line), is_counted, line)
            [about_sign_in] = [line for line in lines if "outcome" in line]
            self.assertEqual(about_sign_in["outcome"], outcome)
            kinds.add(about_sign_in.get("error_kind", outcome))
        self.assertEqual(kinds, {"reported", "settings", "event", "circuit_open", "connect", "timed_out", "rejected",
                                 "rate_limited", "unavailable", "unexpected_answer", "panic"})


def matches(pattern, line):
    """Whether CloudWatch Logs' filter pattern matches a JSON line.

    Of the pattern syntax this knows the one form { $.field = "text" }: equal strings match, without wildcards here.
    Source: "Filter pattern syntax for metric filters" in the Amazon CloudWatch Logs User Guide.
    """
    field, text = re.fullmatch(r'\{ \$\.(\w+) = "([^"*%]*)" \}', pattern).groups()
    return line.get(field) == text


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

    event = (ROOT / "events/minimal.json").read_bytes().strip()
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
