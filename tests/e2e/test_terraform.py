"""The code in docs/terraform.md: its format, its names, its values as in template.yaml, and its order.

Of the AWS provider only the names of its arguments and attributes are here, so nothing is planned for AWS.
"""

import copy
import functools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

from moto.cloudformation.parsing import clean_json
from support import ACCOUNT, REGION, ROOT, run, security_scan
from test_template import ALARMS, METRICS, POOL_ARN, SECRET, TEMPLATE, TOPIC, planned

sys.path.insert(0, str(ROOT / "ops"))
from function import CHECK_EVENT  # noqa: E402

PAGE = (ROOT / "docs/terraform.md").read_text()
EVERYTHING, TRIGGER_ONLY = re.findall(r"^```hcl\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MODULES = ROOT / ".tools/e2e/node_modules"
READ = """
const { format } = require('@cdktn/hcl-tools');
const { parse } = require('@cdktn/hcl2json');
const code = require('fs').readFileSync(0, 'utf8');
Promise.all([format(code), parse('page.tf', code)]).then(([formatted, content]) => {
  console.log(JSON.stringify({ formatted, content }));
  process.exit(0);
}, (error) => {
  console.error(error);
  process.exit(1);
});
"""
META = {"depends_on", "lifecycle"}  # in a resource of any type
REFERENCE = r"\b((?:data\.)?aws_\w+)\.(\w+)(?:\.(\w+))?"


@functools.cache
def read(code):
    """The code as `terraform fmt` leaves it, and its content. Both come from HashiCorp's own library."""
    done = run("node", "--eval", READ, input=code, environment={"NODE_PATH": str(MODULES)})
    return json.loads(done.stdout)


def content(code):
    return copy.deepcopy(read(code)["content"])


def declared(code):
    """The resources and data sources, by the names with which they are referred to."""
    return {f"{prefix}{kind}.{name}": body
            for section, prefix in [("resource", ""), ("data", "data.")]
            for kind, named in content(code).get(section, {}).items()
            for name, [body] in named.items()}


def without(code, *parts):
    """The code without some of its parts."""
    for part in parts:
        assert part in code, part
        code = code.replace(part, "")
    return code


@functools.cache
def provider(kind):
    """A type's arguments and attributes, from the provider's TypeScript bindings. None if there is no such type.

    The arguments are {name: (whether it is required, the arguments in it if it is a block)}.
    """
    folder = re.sub("^aws_", "", kind.replace("data.", "data_")).replace("_", "-")
    path = MODULES / "@cdktn/provider-aws/lib" / folder / "index.d.ts"
    if not path.exists():
        return None
    source = path.read_text()
    interfaces = dict(re.findall(r"^export interface (\w+)[^{]*\{\n(.*?)^\}", source, re.MULTILINE | re.DOTALL))

    def arguments(interface):
        members = re.findall(r"#(\w+) \w+#\1\}(?:(?!/\*\*).)*?readonly \w+(\??): (\w*)", interfaces[interface],
                             re.DOTALL)
        return {name: (not optional, arguments(inner) if inner in interfaces else None)
                for name, optional, inner in members}

    config = re.search(r"constructor\(scope: Construct, id: string, config\??: (\w+)\)", source)[1]
    return arguments(config), set(re.findall(r"^    get (\w+)\(\)", source, re.MULTILINE))


def mistakes(code):
    """What `terraform validate` would refuse."""
    resources, text, found = declared(code), json.dumps(content(code)), []

    def check(where, body, arguments):
        found.extend(f"{where} lacks {name}" for name, (required, _) in arguments.items()
                     if required and name not in body)
        for name, value in body.items():
            is_block = isinstance(value, list) and any(isinstance(item, dict) for item in value)
            if name not in arguments:
                found.append(f"{where} has no {name}")
            elif is_block != (arguments[name][1] is not None):
                found.append(f"{where}.{name} is {'no' if is_block else 'a'} block")
            elif is_block:
                for block in value:
                    check(f"{where}.{name}", block, arguments[name][1])

    for address, body in resources.items():
        kind = address.rpartition(".")[0]
        if provider(kind):
            check(address, {name: value for name, value in body.items() if name not in META}, provider(kind)[0])
        else:
            found.append(f"there is no type {kind}")
    for kind, name, attribute in re.findall(REFERENCE, text):
        first, *others = attribute.split("_")
        if f"{kind}.{name}" not in resources:
            found.append(f"there is no {kind}.{name}")
        elif attribute and first + "".join(map(str.capitalize, others)) not in provider(kind)[1]:
            found.append(f"{kind}.{name} has no attribute {attribute}")
    for kind, known in [("var", content(code).get("variable", {})), ("local", content(code).get("locals", [{}])[0])]:
        found.extend(f"there is no {kind}.{name}" for name in re.findall(rf"\b{kind}\.(\w+)", text)
                     if name not in known)
    return found


class Code(unittest.TestCase):
    def test_terraform_fmt_would_change_nothing(self):
        for code in [EVERYTHING, TRIGGER_ONLY]:
            self.assertEqual(read(code)["formatted"], code)
        unformatted = EVERYTHING.replace("timeout          =", "timeout =")
        self.assertEqual(read(unformatted)["formatted"], EVERYTHING)

    def test_the_provider_knows_all_of_it(self):
        self.assertEqual(len(declared(EVERYTHING)), 18)
        for code in [EVERYTHING, TRIGGER_ONLY]:
            self.assertEqual(mistakes(code), [])

    def test_a_mistake_would_be_found(self):
        for right, wrong, mistake in [
            ("memory_size ", "memory ", "aws_lambda_function.userhub has no memory"),
            ('"aws_lambda_permission"', '"aws_lambda_permit"', "there is no type aws_lambda_permit"),
            ("application_log_level", "log_level", "aws_lambda_function.userhub.logging_config has no log_level"),
            ("environment {", "environment = {", "aws_lambda_function.userhub.environment is a block"),
            ("variables = {", "variables {", "aws_lambda_function.userhub.environment.variables is no block"),
            ('log_format            = "JSON"', "", "aws_lambda_function.userhub.logging_config lacks log_format"),
            ('lambda_version = "V1_0"', "",
             "aws_cognito_user_pool.main.lambda_config.pre_token_generation_config lacks lambda_version"),
            ("secret_id =", "secret_arn =", "data.aws_secretsmanager_secret_version.userhub lacks secret_id"),
            ("aws_iam_role.userhub.arn", "aws_iam_role.userhub.iam_arn",
             "aws_iam_role.userhub has no attribute iam_arn"),
            ("aws_iam_role.userhub.arn", "aws_iam_role.signin.arn", "there is no aws_iam_role.signin"),
            ("= var.userhub_connection_id", "= var.connection_id", "there is no var.connection_id"),
            ("= local.userhub_zip", "= local.zip", "there is no local.zip"),
        ]:
            with self.subTest(wrong):
                self.assertIn(right, EVERYTHING)
                self.assertIn(mistake, mistakes(EVERYTHING.replace(right, wrong, 1)))

    def test_the_page_names_the_providers_version(self):
        bindings = (MODULES / "@cdktn/provider-aws/lib/provider/index.d.ts").read_text()
        [version] = set(re.findall(r"hashicorp/aws/([\d.]+)/docs", bindings))
        self.assertIn(f"(version {version})", PAGE)

    def test_the_provider_cannot_keep_the_key_out_of_the_state(self):
        arguments, _ = provider("aws_lambda_function")
        _, environment = arguments["environment"]
        self.assertEqual([name for name in [*arguments, *environment] if "_wo" in name], [], "a write-only argument")
        self.assertIn("secret_string_wo", provider("aws_secretsmanager_secret_version")[0], "they are here, elsewhere")

    def test_the_security_scan_finds_nothing_without_a_reason(self):
        accepted = dict(re.findall(r"checkov:skip=(\w+):(.+)", (ROOT / "template.yaml").read_text()))
        del accepted["CKV_AWS_149"]  # about the connection's secret, which is not in this code
        accepted |= {
            "CKV_AWS_50": "A log line for each sign-in says how long its report took; tracing needs a wider role.",
            "CKV_AWS_272": "A release's zip has a signed statement of its origin.",
            "CKV_AWS_338": "Log lines are kept as long as in template.yaml.",
        }
        scan = security_scan(EVERYTHING, ".tf", "terraform")
        self.assertEqual({found["check_id"] for found in scan["failed_checks"]}, set(accepted))
        self.assertGreater(len(scan["passed_checks"]), 10)

    def test_the_alarms_name_headings_that_exist(self):
        guide = (ROOT / "docs/operate.md").read_text()
        cited = re.findall(r'docs/operate\.md, \\"([^"\\]+)\\"', EVERYTHING)
        self.assertEqual(len(cited), 5)
        for heading in cited:
            self.assertIn(f"\n## {heading}\n", guide)


def value(expression):
    """What an expression in the code comes to, in the tests' account and with one SNS topic for the alarms."""
    if isinstance(expression, dict):
        return {name: value(inner) for name, inner in expression.items()}
    if isinstance(expression, list):
        return [value(inner) for inner in expression]
    if not isinstance(expression, str):
        return expression
    if encoded := re.fullmatch(r"\$\{jsonencode\((.*)\)\}", expression, re.DOTALL):
        return value(content(f"locals {{\n  it = {encoded[1]}\n}}\n")["locals"][0]["it"])
    if alone := re.fullmatch(r"\$\{([\w.]+)\}", expression):
        return looked_up(alone[1])
    return re.sub(r"\$\{([\w.]+)\}", lambda found: looked_up(found[1]), expression)


def looked_up(name):
    known = {
        "path.module": ".",
        "var.userhub_alarm_topic_arns": [TOPIC],
        "data.aws_partition.userhub.partition": "aws",
        "data.aws_region.userhub.region": REGION,
        "data.aws_caller_identity.userhub.account_id": ACCOUNT,
        "aws_cloudwatch_log_group.userhub.arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/userhub-signin",
    }
    if name in known:
        return known[name]
    if name.startswith("local."):
        return value(content(EVERYTHING)["locals"][0][name.removeprefix("local.")])
    address, _, argument = name.rpartition(".")
    return value(declared(EVERYTHING)[address][argument])


def in_terraform(address, *leave_out):
    """A resource's arguments with their values."""
    body = declared(EVERYTHING)[address]
    return {name: value(given) for name, given in body.items() if name not in META and name not in leave_out}


def in_template(name):
    """A resource's properties in template.yaml as CloudFormation would hand them to the service."""
    template, created, stack = planned(
        ConnectionId="conn_x", AdminKey="none", AdminKeySecretArn=SECRET, AlarmTopicArn=TOPIC)
    assert name in created, name
    properties = json.dumps(template["Resources"][name]["Properties"])
    for reference, named in [  # moto would create what these refer to
        ({"Ref": "Function"}, "userhub-signin"), ({"Ref": "LogGroup"}, "/aws/lambda/userhub-signin"),
        ({"Fn::GetAtt": ["Role", "Arn"]}, "role"),
    ]:
        properties = properties.replace(json.dumps(reference), json.dumps(named))
    return {name: given for name, given in clean_json(json.loads(properties), stack).items() if given is not None}


def as_arguments(properties):
    """CloudFormation's names as Terraform's: OKActions is ok_actions."""
    return {re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower(): given
            for name, given in properties.items()}


class EqualToTheTemplate(unittest.TestCase):
    def setUp(self):
        self.maxDiff = None

    def test_the_function(self):
        created = in_terraform("aws_lambda_function.userhub", "filename", "source_code_hash", "role", "environment")
        wanted = as_arguments(in_template("Function"))
        for name in ["code", "role", "tags"]:
            del wanted[name]
        [logging] = created.pop("logging_config")
        self.assertEqual(logging, as_arguments(wanted.pop("logging_config")))
        variables = wanted.pop("environment")["Variables"].items()
        [environment] = declared(EVERYTHING)["aws_lambda_function.userhub"]["environment"]
        self.assertEqual(set(environment["variables"]), {name for name, given in variables if given is not None})
        self.assertEqual(created, wanted)

    def test_the_role(self):
        wanted = in_template("Role")
        self.assertEqual(in_terraform("aws_iam_role.userhub"), {
            "name_prefix": "userhub-signin-", "assume_role_policy": wanted["AssumeRolePolicyDocument"]})
        [policy] = wanted["Policies"]
        self.assertEqual(in_terraform("aws_iam_role_policy.userhub", "role"), {
            "name": policy["PolicyName"], "policy": policy["PolicyDocument"]})
        rights = {address for address in declared(EVERYTHING) if address.startswith("aws_iam_")}
        self.assertEqual(rights, {"aws_iam_role.userhub", "aws_iam_role_policy.userhub"})

    def test_the_log_group(self):
        wanted = in_template("LogGroup")
        self.assertEqual(in_terraform("aws_cloudwatch_log_group.userhub"), {
            "name": wanted["LogGroupName"], "retention_in_days": wanted["RetentionInDays"]})

    def test_the_permission_but_for_the_pool(self):
        wanted = as_arguments(in_template("CognitoPermission")) | {
            "function_name": "userhub-signin", "source_arn": POOL_ARN.rpartition("/")[0] + "/*"}
        self.assertEqual(in_terraform("aws_lambda_permission.userhub"), wanted)

    def test_the_metrics(self):
        for name, created in [("NotReportedMetric", "userhub_not_reported"), ("UserHubDownMetric", "userhub_down")]:
            wanted = in_template(name)
            [transformation] = wanted["MetricTransformations"]
            self.assertEqual(in_terraform(f"aws_cloudwatch_log_metric_filter.{created}", "name"), {
                "log_group_name": "/aws/lambda/userhub-signin", "pattern": wanted["FilterPattern"],
                "metric_transformation": [{name.removeprefix("metric_"): given
                                           for name, given in as_arguments(transformation).items()}]})
        self.assertEqual(len(METRICS), self.count("aws_cloudwatch_log_metric_filter"))

    def test_the_alarms(self):
        for name in ALARMS:
            wanted = as_arguments(in_template(name))
            if "dimensions" in wanted:
                wanted["dimensions"] = {"FunctionName": "userhub-signin"}
            label = wanted["alarm_name"].replace("userhub-signin-", "userhub_").replace("-", "_")
            created = in_terraform(f"aws_cloudwatch_metric_alarm.{label.replace('userhub_userhub', 'userhub')}")
            self.assertGreater(len(created.pop("alarm_description")), 30)
            del wanted["alarm_description"]
            self.assertEqual(created, wanted)
        self.assertEqual(len(ALARMS), self.count("aws_cloudwatch_metric_alarm"))

    def count(self, kind):
        return sum(address.startswith(f"{kind}.") for address in declared(EVERYTHING))


class Trigger(unittest.TestCase):
    def test_both_ways_set_all_three_triggers(self):
        for code, function in [
            (EVERYTHING, "${aws_lambda_function.userhub.arn}"),
            (TRIGGER_ONLY, '${data.aws_cloudformation_stack.userhub.outputs["FunctionArn"]}'),
        ]:
            [triggers] = declared(code)["aws_cognito_user_pool.main"]["lambda_config"]
            self.assertEqual(triggers, {
                "post_authentication": function, "post_confirmation": function, "pre_token_generation": function,
                "pre_token_generation_config": [{"lambda_arn": function, "lambda_version": "V1_0"}]})

    def test_the_order_is_written_down(self):
        """What Order tries, for where there is no Terraform."""
        resources = declared(EVERYTHING)
        self.assertEqual(resources[POOL]["depends_on"], [f"${{{address}}}" for address in [PERMISSION, TRIAL]])
        for address in [FUNCTION, PERMISSION]:
            self.assertEqual(resources[address]["lifecycle"], [{"create_before_destroy": True}], address)
        self.assertNotIn("statement_id", resources[PERMISSION])
        pool = POOL.split(".")[0]
        self.assertEqual([address for address, body in resources.items() if f"{pool}." in json.dumps(body)], [])

    def test_the_stack_has_what_the_code_asks_of_it(self):
        self.assertIn("FunctionArn", TEMPLATE["Outputs"])
        self.assertEqual(TEMPLATE["Parameters"]["FunctionName"]["Default"],
                         declared(TRIGGER_ONLY)["data.aws_cloudformation_stack.userhub"]["name"])

    def test_the_function_is_tried_as_make_attach_does(self):
        invocation = in_terraform("aws_lambda_invocation.userhub", "triggers")
        self.assertEqual(invocation, {"function_name": "userhub-signin", "input": json.loads(CHECK_EVENT)})


# The arguments that make the provider replace a resource: ForceNew in its source, which the bindings do not tell.
REPLACING = {
    "aws_cloudwatch_log_group": ["name"],
    "aws_cloudwatch_log_metric_filter": ["name", "log_group_name"],
    "aws_cloudwatch_metric_alarm": ["alarm_name"],
    "aws_cognito_user_pool": ["name"],
    "aws_iam_role": ["name_prefix"],
    "aws_iam_role_policy": ["name", "role"],
    "aws_lambda_function": ["function_name"],
    "aws_lambda_invocation": ["function_name", "input", "triggers"],
    "aws_lambda_permission": ["function_name", "action", "principal", "source_account", "source_arn"],
}
POOL, FUNCTION, PERMISSION, TRIAL = (
    "aws_cognito_user_pool.main", "aws_lambda_function.userhub", "aws_lambda_permission.userhub",
    "aws_lambda_invocation.userhub")
# What has to come before what.
ATTACHING = [(f"{address}: Creation complete", f"{POOL}: Modifying") for address in [FUNCTION, PERMISSION, TRIAL]]
DETACHING = [
    *[(f"{POOL}: Modifications complete", f"{address}: Destroying") for address in [FUNCTION, PERMISSION]],
    *[(f"{FUNCTION}: Destruction complete", f"{address}.userhub: Destroying")
      for address in ["aws_iam_role", "aws_iam_role_policy", "aws_cloudwatch_log_group"]]]
WAITING = "  depends_on = [aws_lambda_permission.userhub, aws_lambda_invocation.userhub]\n"
REPLACED_FIRST = "  lifecycle {\n    create_before_destroy = true\n  }\n"


def stand_in(address):
    return address.replace(".", "-")


def with_stand_ins(code, name="userhub-signin", attached=True, tried=False):
    """The code for Terraform without a provider: each resource is a terraform_data with the same arguments.

    It keeps what decides the order: references, depends_on and create_before_destroy. An attribute becomes the
    stand-in's id, which changes when the resource is replaced. With `tried`, the trial's own condition is kept as well;
    it is not met.
    """
    def stood_in(expression):
        return json.loads(re.sub(
            REFERENCE, lambda found: "local.data" if found[1].startswith("data.") else
            f"terraform_data.{stand_in(f'{found[1]}.{found[2]}')}.id", json.dumps(expression)))

    resources = {address: body for address, body in declared(code).items() if not address.startswith("data.")}
    if not attached:
        resources = {POOL: {"name": resources[POOL]["name"]}}
    kept = ["create_before_destroy", "postcondition"] if tried else ["create_before_destroy"]
    stand_ins = {}
    for address, body in resources.items():
        [lifecycle] = json.loads(json.dumps(body.get("lifecycle", [{}])).replace("self.result", "self.id"))
        stand_ins[stand_in(address)] = {
            "input": stood_in({key: given for key, given in body.items() if key not in META}),
            "triggers_replace": stood_in([body.get(key) for key in REPLACING[address.split(".")[0]]]),
            "depends_on": [f"terraform_data.{stand_in(reference[2:-1])}" for reference in body.get("depends_on", [])],
            "lifecycle": {key: given for key, given in lifecycle.items() if key in kept},
            # AWS takes its time too: a pool that does not wait for something is changed before it.
            "provisioner": [{"local-exec": {"command": "sleep 0.2"}}]}
    variables = {key: {**given, "type": "any", "default": given.get("default", "given")}
                 for key, [given] in content(code)["variable"].items()}
    [known] = content(code)["locals"]
    return {"variable": variables, "locals": {**known, "userhub_name": name, "data": "data"},
            "resource": {"terraform_data": stand_ins}}


@unittest.skipUnless(shutil.which("terraform"), "there is no terraform on the PATH")
class Order(unittest.TestCase):
    """With Terraform's own graph, on stand-ins for the resources."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "userhub-signin-x86_64.zip").touch()

    def terraform(self, *arguments, check=True):
        done = run("terraform", *arguments, "-no-color", cwd=self.folder, check=check, environment={
            "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull})
        return done.stdout + done.stderr

    def apply(self, code, check=True, **options):
        """What Terraform says."""
        (self.folder / "main.tf.json").write_text(json.dumps(with_stand_ins(code, **options)))
        return self.terraform("apply", "-auto-approve", check=check)

    def out_of_order(self, said, wanted):
        """The pairs whose second comes before their first."""
        said = re.sub(r" \(deposed object \w+\)", "", said)
        steps = re.findall(r"^terraform_data\.([\w-]+: (?:\w+ complete|Modifying|Destroying))", said, re.MULTILINE)
        return {(first, then) for first, then in wanted
                if steps.index(stand_in(first)) > steps.index(stand_in(then))}

    def wrong_steps(self, code):
        """What is out of order when the pool gets the function, when that is renamed, and when all of it is removed."""
        self.apply(code, attached=False)
        return [self.out_of_order(self.apply(code), ATTACHING),
                self.out_of_order(self.apply(code, name="renamed"), ATTACHING + DETACHING),
                self.out_of_order(self.apply(code, attached=False), DETACHING)]

    def test_the_pool_calls_nothing_that_is_not_there_or_not_permitted(self):
        self.assertEqual(self.wrong_steps(EVERYTHING), [set(), set(), set()])

    def test_a_pool_that_does_not_wait_would_be_noticed(self):
        attached_first = {ATTACHING[1], ATTACHING[2]}
        [attaching, renaming, _] = self.wrong_steps(without(EVERYTHING, WAITING))
        self.assertEqual(attaching, attached_first)
        self.assertLessEqual(attached_first, renaming)

    def test_a_permission_for_the_pools_arn_comes_too_late_or_never(self):
        for_the_pool = re.sub(r"(source_arn +=) .*", r"\1 aws_cognito_user_pool.main.arn", EVERYTHING)
        self.apply(for_the_pool, attached=False)
        self.assertIn("Cycle: ", self.apply(for_the_pool, check=False))
        self.assertIn(ATTACHING[1], self.out_of_order(self.apply(without(for_the_pool, WAITING)), ATTACHING))

    def test_destroying_first_would_be_noticed(self):
        of_the_function, of_the_permission, rest = EVERYTHING.split(REPLACED_FIRST)
        for code, destroyed in [
            (of_the_function + of_the_permission + rest, {DETACHING[0], DETACHING[1]}),
            (of_the_function + REPLACED_FIRST + of_the_permission + rest, {DETACHING[1]}),
        ]:
            [_, renaming, removing] = self.wrong_steps(code)
            self.assertEqual(removing, destroyed)
            self.assertLessEqual(destroyed, renaming)

    def test_the_pool_does_not_get_a_function_that_fails(self):
        self.apply(EVERYTHING, attached=False)
        said = self.apply(EVERYTHING, tried=True, check=False)
        self.assertIn("Error: Resource postcondition failed", said)
        self.assertNotIn(f"{stand_in(POOL)}: Modifying", said)

    def test_destroying_the_function_as_a_target_would_destroy_the_pool(self):
        self.apply(EVERYTHING)
        said = self.terraform("plan", "-destroy", f"-target=terraform_data.{stand_in(FUNCTION)}")
        self.assertIn(f"terraform_data.{stand_in(POOL)} will be destroyed", said)
