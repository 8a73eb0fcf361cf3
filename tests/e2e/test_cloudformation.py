"""The templates in docs/cloudformation.md and docs/serverless-application.md, and `make publish`."""

import json
import pathlib
import re
import shutil
import sys
import tempfile
import time
import unittest

from samtranslator.yaml_helper import yaml_parse
from support import ACCOUNT, REGION, ROOT, Aws, release_assets, run, translated
from test_template import TEMPLATE, names
from werkzeug.wrappers import Response

sys.path.insert(0, str(ROOT / "tools"))
import publish  # noqa: E402

FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:userhub-signin"
OUTPUT = {"Fn::GetAtt": ["UserHubSignin", "Outputs.FunctionArn"]}
TRIGGERS = {"PostAuthentication": OUTPUT, "PostConfirmation": OUTPUT,
            "PreTokenGenerationConfig": {"LambdaVersion": "V1_0", "LambdaArn": OUTPUT}}


def templates(page):
    """The templates in a page."""
    return re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "userhub-signin").mkdir()
        self.aws = Aws()
        self.addCleanup(self.aws.stop)
        self.s3 = self.aws.client("s3")
        self.bucket = f"bucket-{time.monotonic_ns()}"
        self.s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.environment = {"AWS_ENDPOINT_URL": self.aws.url}


class Pages(Case):
    def test_the_linter_finds_nothing(self):
        (self.folder / "userhub-signin/template.yaml").write_text((ROOT / "template.yaml").read_text())
        pages = [*templates("cloudformation.md"), *templates("serverless-application.md")]
        self.assertEqual(len(pages), 3)
        for template in pages:
            path = self.folder / "template.yaml"
            path.write_text(template)
            self.assertEqual(run("cfn-lint", "--ignore-checks", "W3002", "--", path).stdout, "")

    def test_the_pool_waits_for_the_function(self):
        for template in [templates("cloudformation.md")[0], *templates("serverless-application.md")]:
            resources = yaml_parse(template)["Resources"]
            self.assertEqual(names(resources["UserPool"]), {"UserHubSignin"})
            self.assertEqual(names(resources["UserHubSignin"]), set())
            self.assertEqual(resources["UserHubSignin"]["Properties"]["Parameters"]["UserPoolId"], "*")

    def test_the_nested_stack_is_deployed_and_the_pool_calls_its_function(self):
        release_assets(self.folder / "userhub-signin")
        parent = self.folder / "template.yaml"
        parent.write_text(templates("cloudformation.md")[0])
        run("aws", "cloudformation", "package", "--template-file", parent, "--s3-bucket", self.bucket,
            "--output-template-file", self.folder / "packaged.yaml", environment=self.environment)
        packaged = yaml_parse((self.folder / "packaged.yaml").read_text())
        nested = packaged["Resources"]["UserHubSignin"]["Properties"]
        key = nested["TemplateURL"].rpartition("/")[2]
        self.transform(key, nested["Parameters"])
        nested["TemplateURL"] = f"https://s3.amazonaws.com/{self.bucket}/{key}"  # the form that moto knows

        cloudformation = self.aws.client("cloudformation")
        cloudformation.create_stack(StackName="users", TemplateBody=json.dumps(packaged))
        self.addCleanup(cloudformation.delete_stack, StackName="users")
        outputs = {output["OutputKey"]: output["OutputValue"] for stack in cloudformation.describe_stacks()["Stacks"]
                   for output in stack.get("Outputs", [])}
        self.assertEqual(outputs["FunctionArn"], FUNCTION)
        self.assertNotIn("Attach", outputs)
        # moto creates no pools.
        self.assertEqual(packaged["Resources"]["UserPool"]["Properties"]["LambdaConfig"], TRIGGERS)
        policy = json.loads(self.aws.client("lambda").get_policy(FunctionName="userhub-signin")["Policy"])
        [statement] = policy["Statement"]
        self.assertEqual(statement["Condition"], {
            "ArnLike": {"AWS:SourceArn": f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/*"},
            "StringEquals": {"AWS:SourceAccount": ACCOUNT}})

    def transform(self, key, parameters):
        """What CloudFormation does with SAM's transform, and moto does not."""
        template = yaml_parse(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        self.assertRegex(json.dumps(template["Resources"]["Function"]["Properties"]["CodeUri"]), f"s3://{self.bucket}/")
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(translated(template, parameters)))


class Publish(Case):
    """The rules are those of the repository's Developer Guide ("List of Supported AWS Resources", "Using AWS SAM with
    the AWS Serverless Application Repository") and of SAM's ("AWS SAM template Metadata section properties").
    """

    def setUp(self):
        super().setUp()
        self.requests = []
        release_assets(self.folder / "userhub-signin")
        self.zip = self.folder / "userhub-signin/userhub-signin-x86_64.zip"

    def publish(self, status, *options, code=0):
        """What `make publish` says, if the repository answers with this status."""
        def answer(body):
            self.requests.append(json.loads(body))
            return Response('{"applicationId": "arn"}', status, content_type="application/json",
                            headers={"x-amzn-ErrorType": "ForbiddenException"})

        self.aws.instead["/applications"] = answer
        done = run("make", "publish", f"ZIP={self.zip}", f"BUCKET={self.bucket}", f"REGION={REGION}",
                   "SOURCE_URL=https://git.example.com/userhub-signin", *options, check=False,
                   environment=self.environment)
        self.assertEqual(min(done.returncode, 1), code, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout + done.stderr

    def test_what_is_published_follows_the_repositorys_rules(self):
        self.publish(201)
        [application] = self.requests
        for name, pattern in [
            ("name", r"[a-zA-Z0-9\-]{1,140}"), ("author", r"[a-z0-9](([a-z0-9]|-(?!-)){0,125}[a-z0-9])?"),
            ("description", ".{1,256}"), ("semanticVersion", r"\d+\.\d+\.\d+"), ("spdxLicenseId", "MIT"),
            ("licenseUrl", "s3://.+"), ("readmeUrl", "s3://.+"), ("sourceCodeUrl", "https://.+"),
        ]:
            self.assertRegex(application[name], rf"\A{pattern}\Z")
        self.assertLessEqual(len(application["labels"]), 10)
        for label in application["labels"]:
            self.assertRegex(label, r"\A[a-zA-Z0-9+\-_:/@]{1,127}\Z")

        template = yaml_parse(application["templateBody"])
        self.assertEqual(template["Transform"], "AWS::Serverless-2016-10-31", "no other one")
        self.assertLessEqual({resource["Type"] for resource in template["Resources"].values()}, publish.SUPPORTED)
        self.assertNotIn("PackageType", template["Resources"]["Function"]["Properties"])
        granted = json.dumps([resource["Properties"] for resource in template["Resources"].values()
                              if resource["Type"].startswith("AWS::IAM::")])
        self.assertNotRegex(granted, r"iam:|FullAccess|\"Resource\": \"\*\"|:\*\", \"logs|ManagedPolicyArns")
        self.assertLessEqual(len(template["Parameters"]), 60, "a nested application has no more")
        self.assertEqual(template["Parameters"]["Architecture"]["AllowedValues"], ["x86_64"], "that of the zip")
        [key] = re.findall(f"s3://{self.bucket}/(.+)", template["Resources"]["Function"]["Properties"]["CodeUri"])
        self.assertEqual(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read(), self.zip.read_bytes())

    def test_what_is_published_is_a_whole_template(self):
        self.publish(201)
        template = yaml_parse(self.requests[0]["templateBody"])
        path = self.folder / "template.yaml"
        path.write_text(self.requests[0]["templateBody"])
        self.assertEqual(run("cfn-lint", "--", path).stdout, "")
        left_out = {name for name in TEMPLATE["Parameters"] if name not in template["Parameters"]}
        self.assertEqual(left_out, {"SavedQueries", "PortalManagedLogin", "ConnectionUser"})
        self.assertEqual({name for name in TEMPLATE["Resources"] if name not in template["Resources"]}, {
            "OutcomesQuery", "DurationsQuery", "SourcesQuery", "PortalStyle", "ConnectionIamUser",
            "ConnectionAccessKey", "ConnectionAccessKeySecret"})
        self.assertEqual({name for name in TEMPLATE["Rules"] if name not in template["Rules"]},
                         {"PortalOptionsNeedPortalDomain"})
        self.assertEqual(len(template["Rules"]["PortalAndConnectionNeedOneUserPool"]["Assertions"]), 1)

    def test_what_cannot_be_published_is_said(self):
        self.assertIn("sam publish failed", self.publish(403, code=1))
        self.assertEqual(len(self.requests), 1)
        for option in ["ZIP=", "BUCKET=", "REGION=", "SOURCE_URL="]:
            self.assertIn(f"{option[:-1]} is missing: say for example make publish ZIP=",
                          self.publish(201, option, code=1))
        self.assertIn("is not a zip", self.publish(201, "ZIP=template.yaml", code=1))
