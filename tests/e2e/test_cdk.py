"""The code in docs/cdk.md: compiled, synthesized, and compared with template.yaml."""

import json
import pathlib
import re
import tempfile
import unittest

from moto.cloudformation.parsing import clean_json
from support import ROOT, run, temporary_zip
from test_template import evaluated, names, planned

PAGE = (ROOT / "docs/cdk.md").read_text()
MODULES = ROOT / ".tools/e2e/node_modules"
COMPILER = ["tsc", "--strict", "--noUnusedLocals", "--noUnusedParameters", "--skipLibCheck", "--target", "es2022",
            "--module", "node16", "--types", "node"]


def files(page):
    """The page's TypeScript files by name. Each begins with its name."""
    return dict(re.findall(r"^```ts\n// (\S+\.ts)\n(.*?)^```", page, re.MULTILINE | re.DOTALL))


def synthesized(page, programs, *options):
    """The CloudFormation templates that the page's programs make, by the programs' names."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "node_modules").symlink_to(MODULES)
        (folder / "userhub-signin-x86_64.zip").write_bytes(temporary_zip())
        for file, source in files(page).items():
            (folder / file).write_text(source)
        run(*COMPILER, *options, *files(page), cwd=folder)
        templates = {}
        for program in programs:
            run("node", f"{program}.js", cwd=folder, environment={"CDK_OUTDIR": str(folder / program)})
            [template] = (folder / program).glob("*.template.json")
            templates[program] = json.loads(template.read_text())
            del templates[program]["Parameters"], templates[program]["Rules"]  # the version of CDK's bootstrap stack
        return templates


def of_users(there, instead):
    """What CloudFormation would get of users.ts, with this in place of that in the page."""
    assert PAGE.count(there) == 1, there
    return synthesized(PAGE.replace(there, instead), ["users"], "--noCheck")["users"]


def resources(template, stack):
    """The resources' properties by type, with the types of resources in place of references to them."""
    types = {name: resource["Type"] for name, resource in template["Resources"].items()}

    def plain(value):
        if isinstance(value, list):
            return [plain(part) for part in value]
        if not isinstance(value, dict):
            return value
        if value.keys() & {"Ref", "Fn::GetAtt"} and (used := names(value) & set(types)):
            return types[used.pop()]
        return {key: plain(part) for key, part in value.items()}

    found = {}
    for resource in template["Resources"].values():
        if "Condition" not in resource or stack.lazy_condition_map[resource["Condition"]]:
            properties = clean_json(plain(resource.get("Properties", {})), stack)
            found.setdefault(resource["Type"], []).append(
                {name: value for name, value in properties.items() if value is not None})
    return found


def of_page(template):
    return resources(template, evaluated(template, {}))


def of_template():
    template, _, stack = planned(AdminKey="", AdminKeySecretArn="arn", ConnectionId="conn_AbCd12345")
    return resources(template, stack)


def differences(template):
    """What a synthesized template and template.yaml do not have in common."""
    here, there = of_page(template), of_template()

    def compare(kind, left_out, key=None):
        def values(found):
            shared = [{name: value for name, value in one.items() if name not in left_out} for one in found[kind]]
            return sorted(shared, key=lambda one: one.get(key, ""))
        return [] if values(here) == values(there) else [(values(here), values(there))]

    [function], [expected] = here["AWS::Lambda::Function"], there["AWS::Lambda::Function"]
    variables, expected_variables = (
        {name for name, value in one["Environment"]["Variables"].items() if value is not None}
        for one in [function, expected])
    [policy], [role] = here["AWS::IAM::Policy"], there["AWS::IAM::Role"]
    [statement], [expected_statement] = (
        one["PolicyDocument"]["Statement"] for one in [policy, role["Policies"][0]])
    return [
        *compare("AWS::Lambda::Function", {"Code", "Environment", "Tags", "Description"}),
        *compare("AWS::Lambda::Permission", {"SourceArn"}),
        *compare("AWS::Logs::LogGroup", set()),
        *compare("AWS::Logs::MetricFilter", set(), "FilterPattern"),
        *compare("AWS::CloudWatch::Alarm", {"AlarmDescription"}, "AlarmName"),
        *compare("AWS::IAM::Role", {"Policies", "Description"}),
        *([] if variables == expected_variables else [(variables, expected_variables)]),
        *([] if statement["Action"] == expected_statement["Action"] else [(statement, expected_statement)]),
        *([] if statement["Resource"] == "AWS::Logs::LogGroup" else [statement]),
    ]


def needs(template, name):
    """The types of all resources that CloudFormation creates before this one."""
    seen, waiting = set(), [name]
    while waiting:
        resource = template["Resources"][waiting.pop()]
        depends = resource.get("DependsOn", [])
        before = names(resource.get("Properties", {})) | set([depends] if isinstance(depends, str) else depends)
        waiting += before - seen
        seen |= before
    return {template["Resources"][one]["Type"] for one in seen}


def the_only(template, kind):
    [name] = [name for name, resource in template["Resources"].items() if resource["Type"] == kind]
    return name


def is_safe(template):
    """Whether the pool waits for everything that its sign-ins need."""
    return {"AWS::Lambda::Function", "AWS::Lambda::Permission", "AWS::IAM::Policy"} <= needs(
        template, the_only(template, "AWS::Cognito::UserPool"))


class Cdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.templates = synthesized(PAGE, ["users", "imported"])

    def test_it_creates_what_the_template_creates(self):
        for program, template in self.templates.items():
            self.assertEqual(differences(template), [], program)

    def test_the_linter_finds_nothing(self):
        for program, template in self.templates.items():
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(template, file)
                file.flush()
                self.assertEqual(run("cfn-lint", "--ignore-checks", "W3005", "--", file.name).stdout, "", program)

    def test_the_pool_of_the_app_calls_the_function_in_all_three_triggers_once_it_may(self):
        template = self.templates["users"]
        self.assertTrue(is_safe(template))
        found = of_page(template)
        [pool], [permission] = found["AWS::Cognito::UserPool"], found["AWS::Lambda::Permission"]
        function = "AWS::Lambda::Function"
        self.assertEqual(pool["LambdaConfig"], {
            "PostAuthentication": function, "PostConfirmation": function,
            "PreTokenGenerationConfig": {"LambdaArn": function, "LambdaVersion": "V1_0"}})
        self.assertRegex(permission["SourceArn"], r"^arn:aws:cognito-idp:[a-z0-9-]+:\d{12}:userpool/\*$")

    def test_the_function_waits_for_cognitos_call_alone(self):
        [permission] = of_page(self.templates["imported"])["AWS::Lambda::Permission"]
        self.assertEqual(permission["SourceArn"],
                         "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_AbCd12345")
        self.assertNotIn("AWS::Cognito::UserPool", of_page(self.templates["imported"]))

    def test_what_an_imported_pool_still_calls_stays_when_its_name_changes(self):
        kept = {resource["Type"] for resource in self.templates["imported"]["Resources"].values()
                if resource.get("UpdateReplacePolicy") == "Retain"}
        self.assertEqual(kept, {"AWS::Lambda::Function", "AWS::Lambda::Permission"})

    def test_cloudformation_reads_the_key(self):
        for template in self.templates.values():
            variables = of_page(template)["AWS::Lambda::Function"][0]["Environment"]["Variables"]
            self.assertEqual(variables["USERHUB_ADMIN_KEY"],
                             "{{resolve:secretsmanager:userhub/admin-key:SecretString:::}}")
            self.assertEqual(variables["AMAZON_COGNITO_CONNECTION_ID"], "conn_AbCd12345")

    def test_reporting_after_the_response(self):
        found = of_page(of_users("props.report !== 'after-response'", "false"))
        variables = found["AWS::Lambda::Function"][0]["Environment"]["Variables"]
        self.assertEqual(variables["USERHUB_REPORT"], "after-response")
        self.assertEqual(len(found["AWS::CloudWatch::Alarm"]), 4)

    def test_mistakes_would_be_found(self):
        for there, instead in [("memorySize: 128", "memorySize: 256"),
                               ("RetentionDays.ONE_MONTH", "RetentionDays.ONE_YEAR")]:
            self.assertEqual(len(differences(of_users(there, instead))), 1, there)
        self.assertFalse(is_safe(of_users("    pool.node.addDependency(this.permission);\n", "")))
        with self.assertRaisesRegex(AssertionError, "TS2551.*permisson"):
            synthesized(PAGE.replace("this.permission", "this.permisson", 1), [])
