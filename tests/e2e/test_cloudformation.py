"""The templates in docs/cloudformation.md and docs/serverless-application.md, and `make publish`."""

import json
import pathlib
import re
import shutil
import tempfile
import unittest

from samtranslator.yaml_helper import yaml_parse
from support import ACCOUNT, REGION, ROOT, Aws, release_assets, run, translated
from test_template import references
from werkzeug.wrappers import Response

FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:userhub-signin"
TRIGGERS = {"PostAuthentication": FUNCTION, "PostConfirmation": FUNCTION,
            "PreTokenGenerationConfig": {"LambdaVersion": "V1_0", "LambdaArn": FUNCTION}}


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
        self.s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
        self.environment = {"AWS_ENDPOINT_URL": self.aws.url}


class Pages(Case):
    def test_the_linter_finds_nothing(self):
        (self.folder / "userhub-signin/template.yaml").write_text((ROOT / "template.yaml").read_text())
        pages = [*templates("cloudformation.md"), *templates("serverless-application.md")]
        self.assertEqual(len(pages), 3)
        for template in pages:
            path = self.folder / "template.yaml"
            path.write_text(template)
            self.assertEqual(run("cfn-lint", "--regions", REGION, "--", path).stdout, "")

    def test_the_pool_waits_for_the_function(self):
        for template in [templates("cloudformation.md")[0], *templates("serverless-application.md")]:
            resources = yaml_parse(template)["Resources"]
            self.assertEqual(references(resources["UserPool"]), {"UserHubSignin"})
            self.assertEqual(references(resources["UserHubSignin"]), set())
            self.assertEqual(resources["UserHubSignin"]["Properties"]["Parameters"]["UserPoolId"], "*")

    def test_the_nested_stack_is_deployed_and_the_pool_calls_its_function(self):
        release_assets(self.folder / "userhub-signin")
        parent = self.folder / "template.yaml"
        parent.write_text(templates("cloudformation.md")[0])
        run("aws", "cloudformation", "package", "--template-file", parent, "--s3-bucket", "bucket",
            "--output-template-file", self.folder / "packaged.yaml", environment=self.environment)
        packaged = yaml_parse((self.folder / "packaged.yaml").read_text())
        nested = packaged["Resources"]["UserHubSignin"]["Properties"]
        self.transform(nested["TemplateURL"].rpartition("/")[2], nested["Parameters"])

        cloudformation = self.aws.client("cloudformation")
        cloudformation.create_stack(StackName="users", TemplateBody=json.dumps(packaged))
        self.addCleanup(cloudformation.delete_stack, StackName="users")
        cognito = self.aws.client("cognito-idp")
        [pool] = cognito.list_user_pools(MaxResults=9)["UserPools"]
        self.assertEqual(
            cognito.describe_user_pool(UserPoolId=pool["Id"])["UserPool"]["LambdaConfig"], TRIGGERS)
        policy = json.loads(self.aws.client("lambda").get_policy(FunctionName="userhub-signin")["Policy"])
        [statement] = policy["Statement"]
        self.assertEqual(statement["Condition"], {
            "ArnLike": {"AWS:SourceArn": f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/*"},
            "StringEquals": {"AWS:SourceAccount": ACCOUNT}})

    def transform(self, key, parameters):
        """What CloudFormation does with SAM's transform, and moto does not."""
        template = yaml_parse(self.s3.get_object(Bucket="bucket", Key=key)["Body"].read())
        self.assertRegex(json.dumps(template["Resources"]["Function"]["Properties"]["CodeUri"]), "s3://bucket/")
        self.s3.put_object(Bucket="bucket", Key=key, Body=json.dumps(translated(template, parameters)))


class Publish(Case):
    """The repository's rules are in its Developer Guide, and in the AWS SAM Developer Guide under "AWS SAM template Metadata
    section properties"."""

    def publish(self, *, answers=(201, 201)):
        """What reaches the repository: the application and its version."""
        assets = self.folder / "userhub-signin"
        release_assets(assets)
        arn = f"arn:aws:serverlessrepo:{REGION}:{ACCOUNT}:applications/userhub-signin"
        requests = []

        def answer(status, content):
            def serve(body):
                requests.append(json.loads(body))
                return Response(json.dumps(content), status, content_type="application/json")
            return serve

        self.aws.instead["/applications"] = answer(answers[0], {"applicationId": arn})
        for path in [arn, arn.replace(":", "%3A").replace("/", "%2F")]:
            self.aws.instead[f"/applications/{path}/versions/0.1.0"] = answer(answers[1], {"applicationId": arn})
        done = run("make", "publish", f"ZIP={assets}/userhub-signin-x86_64.zip", "BUCKET=bucket", f"REGION={REGION}",
                   "SOURCE_URL=https://git.example.com/userhub-signin", environment=self.environment, check=False)
        return done, requests

    def test_a_version_that_follows_the_repositorys_rules_is_published(self):
        done, requests = self.publish()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        print(requests)
        print(self.aws.queries)
