"""The operator's program as a person runs it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from support import ACCOUNT, ENVIRONMENT, REGION, ROOT, SETTINGS, Aws, aws, run, zipped
from werkzeug.wrappers import Response

# The AWS CLI of this machine, if it has one: version 2.
CLI_2 = shutil.which("aws", path="/usr/local/bin:/usr/bin")

OTHER = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:other"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/sms"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1f0e2d3c-4b5a-4697-8877-665544332211"
TRIGGER_OF_ITS_OWN = {"LambdaVersion": "V1_0", "LambdaArn": OTHER}

# A pool in which nothing is as AWS would have it by default. Whether that is everything, a test asks the AWS CLI.
EVERYTHING = {
    "PoolName": "customers",
    "Policies": {
        "PasswordPolicy": {
            "MinimumLength": 14, "RequireUppercase": False, "RequireLowercase": False, "RequireNumbers": False,
            "RequireSymbols": False, "PasswordHistorySize": 3, "TemporaryPasswordValidityDays": 2,
        },
        "SignInPolicy": {"AllowedFirstAuthFactors": ["PASSWORD", "WEB_AUTHN"]},
    },
    "DeletionProtection": "ACTIVE",
    "LambdaConfig": {
        "PreSignUp": OTHER, "CustomMessage": OTHER, "PostConfirmation": OTHER, "PreAuthentication": OTHER,
        "DefineAuthChallenge": OTHER, "CreateAuthChallenge": OTHER, "VerifyAuthChallengeResponse": OTHER,
        "PreTokenGeneration": OTHER, "UserMigration": OTHER,
        "PreTokenGenerationConfig": {"LambdaVersion": "V2_0", "LambdaArn": OTHER},
        "CustomSMSSender": TRIGGER_OF_ITS_OWN, "CustomEmailSender": TRIGGER_OF_ITS_OWN, "KMSKeyID": KEY,
        "InboundFederation": TRIGGER_OF_ITS_OWN,
    },
    "AutoVerifiedAttributes": ["phone_number", "email"],
    "SmsVerificationMessage": "Yours is {####}",
    "EmailVerificationMessage": "Yours is {####}",
    "EmailVerificationSubject": "Verify",
    "VerificationMessageTemplate": {
        "SmsMessage": "Yours is {####}", "EmailMessage": "Yours is {####}", "EmailSubject": "Verify",
        "EmailMessageByLink": "{##Click##}", "EmailSubjectByLink": "Click", "DefaultEmailOption": "CONFIRM_WITH_LINK",
    },
    "SmsAuthenticationMessage": "Code {####}",
    "UserAttributeUpdateSettings": {"AttributesRequireVerificationBeforeUpdate": ["email"]},
    "MfaConfiguration": "OPTIONAL",
    "DeviceConfiguration": {"ChallengeRequiredOnNewDevice": True, "DeviceOnlyRememberedOnUserPrompt": True},
    "EmailConfiguration": {
        "SourceArn": f"arn:aws:ses:{REGION}:{ACCOUNT}:identity/example.com", "ReplyToEmailAddress": "help@example.com",
        "EmailSendingAccount": "DEVELOPER", "From": "no-reply@example.com", "ConfigurationSet": "set",
    },
    "SmsConfiguration": {
        "SnsCallerArn": ROLE, "ExternalId": "external", "SnsRegion": REGION,
        "EumsSms": {
            "CallerArn": ROLE, "ExternalId": "external", "OriginationIdentity": "origin", "ConfigurationSetName": "set",
            "InEntityId": "entity", "InTemplateId": "template", "Region": REGION,
        },
    },
    "UserPoolTags": {"team": "accounts", "KeyName": "a tag that is named as the CLI's skeleton names all keys"},
    "AdminCreateUserConfig": {
        "AllowAdminCreateUserOnly": True,
        "InviteMessageTemplate": {"SMSMessage": "{username} {####}", "EmailMessage": "{username} {####}",
                                  "EmailSubject": "Welcome"},
    },
    "UserPoolAddOns": {
        "AdvancedSecurityMode": "ENFORCED", "AdvancedSecurityAdditionalFlows": {"CustomAuthMode": "AUDIT"},
    },
    "AccountRecoverySetting": {"RecoveryMechanisms": [{"Priority": 1, "Name": "admin_only"}]},
    "UserPoolTier": "PLUS",
    "KeyConfiguration": {"KeyType": "CUSTOMER_MANAGED_KEY", "KmsKeyArn": KEY},
    "IssuerConfiguration": {"Type": "UPDATED"},
}


def leaves(value, path=""):
    if isinstance(value, dict):
        return {leaf for key, part in value.items() for leaf in leaves(part, f"{path}.{key}")}
    return {path}


def pool_arn(pool_id):
    return f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{pool_id}"


class Case(unittest.TestCase):
    """Tests that run the program; `self.aws` is the AWS, `self.pool` the user pool."""

    environment = {}

    def program(self, command, *options, code=0, environment=None, typed="", pool=None, cwd=ROOT):
        """What a command prints. It must end with that code, in sentences, and never show a setting."""
        done = run("python3", ROOT / "ops", command, pool or self.pool, *options, check=False, input=typed, cwd=cwd,
                   environment={"AWS_ENDPOINT_URL": self.aws.url, **self.environment, **(environment or {})})
        printed = done.stdout + done.stderr
        self.assertEqual(done.returncode, code, printed)
        self.assertNotIn("Traceback", printed)
        self.assertNotIn(SETTINGS["USERHUB_ADMIN_KEY"], printed)
        return printed

    def interrupt(self, step, command, *options):
        """What a command says, its code, and the calls it had made, when somebody types Ctrl-C at its n-th call."""
        count = []
        process = subprocess.Popen(
            ["python3", "ops", command, self.pool, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, cwd=ROOT, env={**ENVIRONMENT, "AWS_ENDPOINT_URL": self.aws.url},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # whoever starts the tests may ignore it

        def look(operation):
            count.append(operation)
            if len(count) == step:
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)

        self.aws.before = look
        said = process.communicate(timeout=60)[0]
        del self.aws.before
        self.assertNotIn("Traceback", said)
        return said, process.returncode, len(count)

    def cli(self, script):
        """The environment with a program `aws` that is a shell script; REAL in it is the AWS CLI."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "aws").write_text(f"#!/bin/sh\n{script.replace('REAL', shutil.which('aws'))}\n")
        (folder / "aws").chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    def recorded(self):
        """A file with the arguments of each call of the AWS CLI, a line each, and the environment for that."""
        file = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "arguments")
        return file, self.cli(f'echo "$(printf "%s " "$@" | tr "\\n" " ")" >>{file}; exec REAL "$@"')


class WholePool(Case):
    """A user pool with everything in it, and the deployed function, in moto's AWS."""

    def setUp(self):
        self.aws = Aws()
        self.addCleanup(self.aws.stop)
        self.cognito = self.aws.client("cognito-idp")
        self.functions = self.aws.client("lambda")
        self.pool = self.cognito.create_user_pool(**EVERYTHING)["UserPool"]["Id"]
        self.pool_arn = pool_arn(self.pool)
        self.addCleanup(lambda: [path.unlink() for path in self.saved()])
        self.cognito.set_user_pool_mfa_config(UserPoolId=self.pool, MfaConfiguration="OPTIONAL",
                                              SoftwareTokenMfaConfiguration={"Enabled": True})
        self.aws.also["DescribeUserPool"] = self.as_aws_describes
        self.aws.instead["UpdateUserPool"] = self.as_aws_refuses
        self.aws.instead["Invoke"] = lambda body: Response(body)  # a function that returns its event
        self.function = self.deploy()

    def tearDown(self):
        self.cognito.delete_user_pool(UserPoolId=self.pool)
        for function in self.functions.list_functions()["Functions"]:
            self.functions.delete_function(FunctionName=function["FunctionName"])

    # Cognito's own ways that moto does not have.

    def as_aws_describes(self, answer):
        pool = answer["UserPool"]
        days = pool["Policies"]["PasswordPolicy"].get("TemporaryPasswordValidityDays")
        if days:
            pool.setdefault("AdminCreateUserConfig", {})["UnusedAccountValidityDays"] = days
        return answer

    def as_aws_refuses(self, body):
        self.update = update = json.loads(body)
        if ("UnusedAccountValidityDays" in update.get("AdminCreateUserConfig", {})
                and "TemporaryPasswordValidityDays" in update.get("Policies", {}).get("PasswordPolicy", {})):
            return Response(json.dumps({"__type": "InvalidParameterException", "message": "one of the two"}), 400)
        if any(key.startswith("aws:") for key in update.get("UserPoolTags", {})):
            return Response(json.dumps({"__type": "InvalidParameterException", "message": "aws: is reserved"}), 400)
        return None

    def deploy(self, name="userhub-signin", variables=SETTINGS, pool_arn=None):
        """The function's ARN. Cognito may invoke it for the pool."""
        roles = self.aws.client("iam")
        try:
            role = roles.get_role(RoleName="role")["Role"]
        except roles.exceptions.NoSuchEntityException:
            role = roles.create_role(RoleName="role", AssumeRolePolicyDocument="{}")["Role"]
        function = self.functions.create_function(
            FunctionName=name, Runtime="provided.al2023", Role=role["Arn"], Handler="bootstrap",
            Code={"ZipFile": zipped("/bin/true")}, Environment={"Variables": variables})
        self.permit(name, pool_arn or self.pool_arn)
        return function["FunctionArn"]

    def permit(self, name, pool_arn, **changes):
        self.functions.add_permission(**{
            "FunctionName": name, "StatementId": f"permission-{time.monotonic_ns()}", "Action": "lambda:InvokeFunction",
            "Principal": "cognito-idp.amazonaws.com", "SourceArn": pool_arn, "SourceAccount": ACCOUNT, **changes})

    def describe(self):
        described = aws(self.aws.url, "cognito-idp", "describe-user-pool", "--user-pool-id", self.pool)["UserPool"]
        del described["LastModifiedDate"]
        return described

    def mfa(self):
        return aws(self.aws.url, "cognito-idp", "get-user-pool-mfa-config", "--user-pool-id", self.pool)

    def set_trigger(self, arn):
        """As somebody else would, with all due care."""
        update = {**EVERYTHING, "LambdaConfig": {**EVERYTHING["LambdaConfig"], "PostAuthentication": arn}}
        self.cognito.update_user_pool(UserPoolId=self.pool, **update)
        self.aws.calls.clear()

    def saved(self):
        return sorted((ROOT / "user-pools").glob(f"{self.pool}-*.json"))

    def assert_untouched(self, before):
        self.assertNotIn("UpdateUserPool", self.aws.calls)
        self.assertEqual(self.describe(), before)
