"""The code in docs/infrastructure.md: deployed in an emulator, where that can, with a sign-in through what it made."""

import copy
import functools
import json
import os
import pathlib
import re
import shutil
import tempfile
import unittest

from samtranslator.yaml_helper import yaml_parse
from support import BINARY, REGION, ROOT, SETTINGS, Ministack, UserHub, run, zipped
from test_sign_in import Cognito
from test_template import ACCOUNT, SOURCE, TEMPLATE, names, released_template

PAGE = (ROOT / "docs/infrastructure.md").read_text()
VERSION = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
RELEASE = f"userhub-signin-{VERSION}-x86_64"
RELEASED = released_template(SOURCE, "x86_64")
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:userhub/admin-key-AbCdEf"  # the one in the page
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:userhub-signin"
MODULES = ROOT / ".tools/e2e/node_modules"
[YAML], [TYPESCRIPT], [HCL], [CONSOLE] = (
    re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for language in ["yaml", "ts", "hcl", "console"])
COMPILER = ["tsc", "--strict", "--noUnusedLocals", "--noUnusedParameters", "--skipLibCheck", "--target", "es2022",
            "--module", "node16", "--types", "node"]


def pinned(file, package):
    return re.search(rf"^{package}==([\d.]+)", (ROOT / "tools" / file).read_text(), re.MULTILINE)[1]


class Page(unittest.TestCase):
    def test_it_names_this_release_and_the_versions_that_the_tests_run_with(self):
        self.assertEqual(set(re.findall(r"userhub-signin-([\d.]+)-", PAGE)), {VERSION})
        provider = (MODULES / "@cdktn/provider-aws/lib/provider/index.d.ts").read_text()
        table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.split("| supported |")[1], re.MULTILINE))
        for name, version in {
            "AWS CLI": pinned("e2e.in", "awscli"),
            "CDK": json.loads((MODULES / "aws-cdk-lib/package.json").read_text())["version"],
            "Terraform's AWS provider": re.search(r"hashicorp/aws/([\d.]+)/docs", provider)[1],
        }.items():
            self.assertTrue(table[name].startswith(version.rpartition(".")[0]), (name, version))
        self.assertEqual(table["SAM, cargo-lambda"], ", ".join(
            pinned("setup.in", package).rpartition(".")[0] for package in ["aws-sam-cli", "cargo-lambda"]))
        self.assertIn(table["UserHub's Admin API"], (ROOT / "src/userhub.rs").read_text())

    def test_the_native_list_says_what_the_template_says(self):
        properties = {name: resource["Properties"] for name, resource in TEMPLATE["Resources"].items()}
        self.assertIn(f"A timeout of {properties['Function']['Timeout']} s", PAGE)
        self.assertIn(properties["QueueMapping"]["FunctionResponseTypes"][0], PAGE)


class Deployed(Cognito):
    triggers = ["PostAuthentication"]
    function = "userhub-signin"

    def setUp(self):
        self.aws = Ministack(self.lambda_port)
        self.addCleanup(self.aws.stop)
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / f"{RELEASE}.yaml").write_text(RELEASED)
        (self.folder / f"{RELEASE}.zip").write_bytes(zipped(BINARY))
        self.secret = self.aws.client("secretsmanager").create_secret(
            Name="userhub/admin-key", SecretString=SETTINGS["USERHUB_ADMIN_KEY"])["ARN"]

    def lint(self, template):
        path = self.folder / "linted"
        path.write_text(template)
        self.assertEqual(run("cfn-lint", "--", path).stdout, "")

    def bucket(self, name):
        self.aws.client("s3").create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})

    def assert_sign_ins_are_reported(self, stack):
        """The nested stack is the release's, the pool in the parent stack calls its function, and that reports."""
        cloudformation = self.aws.client("cloudformation")
        [nested] = [resource["PhysicalResourceId"] for resource in cloudformation.describe_stack_resources(
            StackName=stack)["StackResources"] if resource["ResourceType"] == "AWS::CloudFormation::Stack"]
        self.assertEqual(cloudformation.get_template(StackName=nested)["TemplateBody"], RELEASED)
        [found] = self.aws.client("cognito-idp").list_user_pools(MaxResults=9)["UserPools"]
        described = self.aws.client("cognito-idp").describe_user_pool(UserPoolId=found["Id"])["UserPool"]
        self.assertEqual(described["LambdaConfig"], {
            "PostAuthentication": FUNCTION, "PostConfirmation": FUNCTION,
            "PreTokenGenerationConfig": {"LambdaVersion": "V1_0", "LambdaArn": FUNCTION}})
        [statement] = json.loads(
            self.aws.client("lambda").get_policy(FunctionName="userhub-signin")["Policy"])["Statement"]
        self.assertEqual(statement["Principal"], {"Service": "cognito-idp.amazonaws.com"})
        self.assertIn(f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/*", json.dumps(statement["Condition"]))

        userhub = UserHub()
        self.aws.set_variables("userhub-signin", **{**SETTINGS, "USERHUB_BASE_URL": userhub.base_url})
        self.authenticate(self.pool_with(["plain"]), ["plain"])
        self.assertEqual(userhub.end(), ["plain"])

    def test_cloudformation(self):
        self.lint(YAML)
        self.bucket("my-bucket")
        upload, deploy = re.findall(r"^\$ (.+)", CONSOLE, re.MULTILINE)
        run("sh", "-c", upload, cwd=self.folder, environment={"AWS_ENDPOINT_URL": self.aws.url})
        # The CLI would look again after 30 s. What it would say is here in its place.
        self.assertEqual(deploy, "aws cloudformation deploy --template-file template.yaml --stack-name users "
                                 "--capabilities CAPABILITY_IAM")
        self.aws.deploy("users", YAML.replace(SECRET, self.secret))
        resources = yaml_parse(YAML)["Resources"]
        self.assertEqual((names(resources["UserPool"]), names(resources["UserHubSignin"])), ({"UserHubSignin"}, set()))
        self.assert_sign_ins_are_reported("users")

    def synthesized(self, code):
        """The stack's template and its assets: (source, bucket, key)."""
        (self.folder / "app.ts").write_text(code.replace(SECRET, self.secret))
        if not (self.folder / "node_modules").exists():
            (self.folder / "node_modules").symlink_to(MODULES)
        run(*COMPILER, "app.ts", cwd=self.folder)
        out = self.folder / "cdk.out"
        shutil.rmtree(out, ignore_errors=True)
        run("node", "app.js", cwd=self.folder, environment={"CDK_OUTDIR": str(out)})
        template = json.loads((out / "Users.template.json").read_text())
        del template["Parameters"], template["Rules"]  # the version of CDK's bootstrap stack
        here = {"AWS::AccountId": ACCOUNT, "AWS::Region": REGION}
        assets = [(out / file["source"]["path"], *(re.sub(r"\$\{([\w:]+)\}", lambda found: here[found[1]], text)
                                                   for text in [place["bucketName"], place["objectKey"]]))
                  for file in json.loads((out / "Users.assets.json").read_text())["files"].values()
                  for place in file["destinations"].values()]
        return template, assets

    def test_cdk(self):
        template, assets = self.synthesized(TYPESCRIPT)
        self.lint(json.dumps(template))
        contents = [source.read_bytes() for source, _, _ in assets]
        for name in [f"{RELEASE}.yaml", f"{RELEASE}.zip"]:
            self.assertIn((self.folder / name).read_bytes(), contents)
        self.bucket(assets[0][1])
        for source, bucket, key in assets:
            self.aws.client("s3").put_object(Bucket=bucket, Key=key, Body=source.read_bytes())
        self.aws.deploy("Users", json.dumps(template))
        self.assert_sign_ins_are_reported("Users")

    def test_the_compiler_would_find_a_mistake(self):
        with self.assertRaisesRegex(AssertionError, "TS2551.*addTriger"):
            self.synthesized(TYPESCRIPT.replace("addTrigger", "addTriger", 1))


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
REFERENCE = r"\b(aws_\w+)\.(\w+)(?:\.(\w+))?"


@functools.cache
def read(code):
    """The code as `terraform fmt` leaves it, and its content. Both come from HashiCorp's own library."""
    done = run("node", "--eval", READ, input=code, environment={"NODE_PATH": str(MODULES)})
    return json.loads(done.stdout)


def content(code):
    return copy.deepcopy(read(code)["content"])


def declared(code):
    """The resources, by the names with which they are referred to."""
    return {f"{kind}.{name}": body for kind, named in content(code)["resource"].items()
            for name, [body] in named.items()}


@functools.cache
def provider(kind):
    """A type's arguments and attributes, from the provider's TypeScript bindings. None if there is no such type.

    The arguments are {name: (whether it is required, the arguments in it if it is a block)}.
    """
    path = MODULES / "@cdktn/provider-aws/lib" / kind.removeprefix("aws_").replace("_", "-") / "index.d.ts"
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
    found.extend(f"there is no local.{name}" for name in re.findall(r"\blocal\.(\w+)", text)
                 if name not in content(code)["locals"][0])
    return found


class Terraform(unittest.TestCase):
    def test_terraform_fmt_would_change_nothing(self):
        self.assertEqual(read(HCL)["formatted"], HCL)
        self.assertEqual(read(HCL.replace("capabilities  =", "capabilities ="))["formatted"], HCL)

    def test_the_provider_knows_all_of_it(self):
        self.assertEqual(len(declared(HCL)), 3)
        self.assertEqual(mistakes(HCL), [])

    def test_a_mistake_would_be_found(self):
        for right, wrong, mistake in [
            ("template_body", "template", "aws_cloudformation_stack.userhub has no template"),
            ('"aws_s3_object" "userhub"', '"aws_s3_thing" "userhub"', "there is no type aws_s3_thing"),
            ("parameters = {", "parameters {", "aws_cloudformation_stack.userhub.parameters is no block"),
            ('lambda_version = "V1_0"', "",
             "aws_cognito_user_pool.main.lambda_config.pre_token_generation_config lacks lambda_version"),
            ("userhub.outputs", "userhub.output", "aws_cloudformation_stack.userhub has no attribute output"),
            ("aws_s3_object.userhub.key", "aws_s3_object.signin.key", "there is no aws_s3_object.signin"),
            ('"${local.userhub}.zip"', '"${local.zip}.zip"', "there is no local.zip"),
        ]:
            with self.subTest(wrong):
                self.assertIn(right, HCL)
                self.assertIn(mistake, mistakes(HCL.replace(right, wrong, 1)))

    def test_it_takes_the_released_template_with_its_own_parameters(self):
        [stack] = [body for address, body in declared(HCL).items() if address.startswith("aws_cloudformation_stack.")]
        self.assertEqual(stack["template_body"], '${file("${path.module}/${local.userhub}.yaml")}')
        self.assertEqual(content(HCL)["locals"], [{"userhub": RELEASE}])
        self.assertLessEqual(set(stack["parameters"]), set(yaml_parse(RELEASED)["Parameters"]))
        self.assertNotIn("AdminKey", stack["parameters"], "it would be in the state")

    def test_all_three_triggers_wait_for_the_stack(self):
        arn = '${aws_cloudformation_stack.userhub.outputs["FunctionArn"]}'
        self.assertEqual(declared(HCL)["aws_cognito_user_pool.main"]["lambda_config"], [{
            "post_authentication": arn, "post_confirmation": arn, "pre_token_generation": arn,
            "pre_token_generation_config": [{"lambda_arn": arn, "lambda_version": "V1_0"}]}])


# The arguments that make the provider replace a resource: ForceNew in its source, which the bindings do not tell.
REPLACING = {"aws_s3_object": ["bucket", "key"], "aws_cloudformation_stack": ["name"],
             "aws_cognito_user_pool": ["name"]}
OBJECT, STACK, POOL = "aws_s3_object-userhub", "aws_cloudformation_stack-userhub", "aws_cognito_user_pool-main"
REPLACED_LAST = re.compile(r"  lifecycle \{\n    create_before_destroy = true.*\n  \}\n")


def with_stand_ins(code, attached=True):
    """The code for Terraform without a provider: each resource is a terraform_data with the same arguments.

    It keeps what decides the order: references and create_before_destroy. An attribute becomes the stand-in's output,
    which is known only after the resource was made or changed.
    """
    def stood_in(expression):
        text = re.sub(REFERENCE, lambda found: f"terraform_data.{found[1]}-{found[2]}.output", json.dumps(expression))
        return json.loads(text.replace('[\\"FunctionArn\\"]', "").replace("${file(", "${basename("))

    resources = declared(code)
    if not attached:
        resources = {"aws_cognito_user_pool.main": {"name": "main"}}
    stand_ins = {}
    for address, body in resources.items():
        kind, _, name = address.partition(".")
        stand_ins[f"{kind}-{name}"] = {
            "input": stood_in({key: given for key, given in body.items() if key not in META}),
            "triggers_replace": stood_in([body.get(key) for key in REPLACING[kind]]),
            "lifecycle": body.get("lifecycle", [{}])[0],
            # AWS takes its time too: a pool that does not wait for something is changed before it.
            "provisioner": [{"local-exec": {"command": "sleep 0.2"}}]}
    return {"locals": content(code)["locals"], "resource": {"terraform_data": stand_ins}}


@unittest.skipUnless(shutil.which("terraform"), "there is no terraform on the PATH")
class Order(unittest.TestCase):
    """With Terraform's own graph, on stand-ins for the resources."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def terraform(self, *arguments):
        done = run("terraform", *arguments, "-no-color", cwd=self.folder, environment={
            "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.devnull})
        return done.stdout + done.stderr

    def apply(self, code, attached=True):
        """What Terraform does, in its order."""
        (self.folder / "main.tf.json").write_text(json.dumps(with_stand_ins(code, attached)))
        said = re.sub(r" \(deposed object \w+\)", "", self.terraform("apply", "-auto-approve"))
        return re.findall(r"^terraform_data\.([\w-]+: (?:\w+ complete|Modifying|Destroying))", said, re.MULTILINE)

    def assert_order(self, steps, *order):
        self.assertEqual(sorted(order, key=steps.index), list(order), steps)

    def test_the_pool_gets_the_function_after_it_was_made_and_lets_go_before_it_is_deleted(self):
        self.apply(HCL, attached=False)
        self.assert_order(self.apply(HCL), f"{OBJECT}: Creation complete", f"{STACK}: Creation complete",
                          f"{POOL}: Modifying")
        self.assert_order(self.apply(HCL, attached=False), f"{POOL}: Modifications complete", f"{STACK}: Destroying",
                          f"{OBJECT}: Destroying")

    def test_a_new_version_changes_the_stack_while_both_zips_are_there(self):
        self.apply(HCL)
        steps = self.apply(HCL.replace(f"{VERSION}-x86_64", "9.0.0-x86_64"))
        self.assert_order(steps, f"{OBJECT}: Creation complete", f"{STACK}: Modifying",
                          f"{STACK}: Modifications complete", f"{OBJECT}: Destroying")

    def test_without_the_lifecycles_the_order_would_be_wrong(self):
        code = REPLACED_LAST.sub("", HCL)
        self.apply(code)
        steps = self.apply(code.replace(f"{VERSION}-x86_64", "9.0.0-x86_64"))
        self.assert_order(steps, f"{OBJECT}: Destroying", f"{STACK}: Modifying")
        self.assert_order(self.apply(code, attached=False), f"{STACK}: Destroying", f"{POOL}: Modifying")

    def test_destroying_the_stack_as_a_target_would_destroy_the_pool(self):
        self.apply(HCL)
        said = self.terraform("plan", "-destroy", f"-target=terraform_data.{STACK}")
        self.assertIn(f"terraform_data.{POOL} will be destroyed", said)
