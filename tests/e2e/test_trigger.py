"""`make attach`, `detach`, `status` and `smoke` through the AWS CLI, against moto's AWS."""

import base64
import copy
import functools
import json
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
import time
import unittest

from support import ACCOUNT, REGION, ROOT, SETTINGS, Aws, Lambda, UserHub, aws, free_port, run, temporary_zip
from werkzeug.wrappers import Response

sys.path.insert(0, str(ROOT / "ops"))
import user_pool  # noqa: E402

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


class Case(unittest.TestCase):
    """A user pool with everything in it, and the deployed function."""

    def setUp(self):
        self.aws = Aws()
        self.addCleanup(self.aws.stop)
        self.cognito = self.aws.client("cognito-idp")
        self.functions = self.aws.client("lambda")
        self.pool = self.cognito.create_user_pool(**EVERYTHING)["UserPool"]["Id"]
        self.pool_arn = f"arn:aws:cognito-idp:{REGION}:{ACCOUNT}:userpool/{self.pool}"
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

    # Two of Cognito's own ways that moto does not have.

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
            Code={"ZipFile": temporary_zip()}, Environment={"Variables": variables})
        self.permit(name, pool_arn or self.pool_arn)
        return function["FunctionArn"]

    def permit(self, name, pool_arn, **changes):
        self.functions.add_permission(**{
            "FunctionName": name, "StatementId": f"permission-{time.monotonic_ns()}", "Action": "lambda:InvokeFunction",
            "Principal": "cognito-idp.amazonaws.com", "SourceArn": pool_arn, "SourceAccount": ACCOUNT, **changes})

    def make(self, target, *options, code=0, environment=None):
        """What a target prints. It must end with that code, in sentences, and never show a setting."""
        arguments = options if any("USER_POOL_ID" in option for option in options) else (
            f"USER_POOL_ID={self.pool}", *options)
        done = run("make", target, *arguments, check=False,
                   environment={"AWS_ENDPOINT_URL": self.aws.url, **(environment or {})})
        printed = done.stdout + done.stderr
        self.assertEqual(min(done.returncode, 1), code, printed)
        self.assertNotIn("Traceback", printed)
        for value in SETTINGS.values():
            self.assertNotIn(value, printed)
        return printed

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


class AttachAndDetach(Case):
    def test_the_pool_of_these_tests_differs_in_everything(self):
        skeleton = json.loads(run("aws", "cognito-idp", "update-user-pool", "--generate-cli-skeleton", "input").stdout)
        for key, value in skeleton["UserPoolTags"].items():
            self.assertEqual((key, value), ("KeyName", ""))
        skeleton["UserPoolTags"] = EVERYTHING["UserPoolTags"]
        self.assertEqual(leaves(skeleton) - leaves(EVERYTHING), {
            ".UserPoolId", ".LambdaConfig.PostAuthentication", ".AdminCreateUserConfig.UnusedAccountValidityDays"})

    def test_attaching_and_detaching_change_the_trigger_alone(self):
        before, mfa = self.describe(), self.mfa()
        for key, value in EVERYTHING.items():
            self.assertEqual(leaves(value) - leaves(before["Name" if key == "PoolName" else key]), set(), key)

        printed = self.make("attach")
        self.assertIn(f"LambdaConfig.PostAuthentication: (none) -> {self.function}", printed)
        self.assertNotIn("LambdaConfig.PostConfirmation", printed)
        attached = copy.deepcopy(before)
        attached["LambdaConfig"]["PostAuthentication"] = self.function
        self.assertEqual((self.describe(), self.mfa()), (attached, mfa))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1)
        self.assertEqual(self.update["PoolName"], "customers")  # moto never changes a name

        [description, restore, update] = self.saved()
        described = json.loads(description.read_text())["UserPool"]
        del described["LastModifiedDate"]
        self.assertEqual(described, before)
        self.assertIn(str(description.relative_to(ROOT)), printed)
        for path in self.saved():
            self.assertEqual(path.stat().st_mode & 0o077, 0, "others may not read how people sign in")

        self.assertIn("attached to", self.make("attach"))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1, "attached already")

        self.assertIn(f"PostAuthentication: {self.function} -> (none)", self.make("detach"))
        self.assertEqual((self.describe(), self.mfa()), (before, mfa))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 2)
        self.assertIn("is not attached to", self.make("detach"))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 2, "detached already")

    def test_a_pool_without_anything_special_stays_so(self):
        self.take_a_plain_pool()
        self.attach_and_detach()

    def take_a_plain_pool(self):
        plain = self.cognito.create_user_pool(PoolName="plain")["UserPool"]
        self.cognito.delete_user_pool(UserPoolId=self.pool)
        self.pool = plain["Id"]
        self.permit("userhub-signin", plain["Arn"])

    def attach_and_detach(self, **how):
        before = self.describe()
        self.make("attach", **how)
        self.assertEqual(self.describe().pop("LambdaConfig"), {"PostAuthentication": self.function})
        self.make("detach", **how)
        after = self.describe()
        self.assertEqual(after.pop("LambdaConfig", {}), before.pop("LambdaConfig", {}))
        self.assertEqual(after, before)

    def test_both_triggers_are_attached_and_detached(self):
        both = "TRIGGERS=PostAuthentication PostConfirmation"
        before = self.describe()
        refused = self.make("attach", both, code=1)
        self.assertIn(f"as PostConfirmation: {OTHER}", refused)
        self.assertIn("REPLACE=1", refused)
        self.assert_untouched(before)

        printed = self.make("attach", both, "REPLACE=1")
        self.assertIn(f"LambdaConfig.PostAuthentication: (none) -> {self.function}", printed)
        self.assertIn(f"LambdaConfig.PostConfirmation: {OTHER} -> {self.function}", printed)
        attached = copy.deepcopy(before)
        attached["LambdaConfig"] |= {"PostAuthentication": self.function, "PostConfirmation": self.function}
        self.assertEqual(self.describe(), attached)
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1)
        self.assertIn("already (PostAuthentication, PostConfirmation)", self.make("attach", both))
        self.assertIn("already (PostAuthentication)", self.make("attach"))
        status = self.make("status")
        self.assertIn(f"attached    PostAuthentication: {self.function}", status)
        self.assertIn(f"attached    PostConfirmation: {self.function}", status)

        self.make("detach", "TRIGGERS=PostConfirmation")
        del attached["LambdaConfig"]["PostConfirmation"]
        self.assertEqual(self.describe(), attached)
        self.make("attach", both)
        self.assertEqual(self.describe()["LambdaConfig"]["PostConfirmation"], self.function)
        self.make("detach")
        del attached["LambdaConfig"]["PostAuthentication"]
        self.assertEqual(self.describe(), attached)
        self.assertIn("is not attached to", self.make("detach", both))

    def test_the_third_trigger_in_every_form_that_a_pool_may_have_it(self):
        def config(arn, version):
            return {"PreTokenGenerationConfig": {"LambdaVersion": version, "LambdaArn": arn}}

        third = "TRIGGERS=PreTokenGeneration"
        others = {"PreSignUp": OTHER}
        for before, version in [
            ({"PreTokenGeneration": OTHER}, "V1_0"),
            (config(OTHER, "V1_0"), "V1_0"),
            (config(OTHER, "V2_0"), "V2_0"),
            ({"PreTokenGeneration": OTHER, **config(OTHER, "V3_0")}, "V3_0"),
        ]:
            self.assertEqual(user_pool.trigger_arn(before, "PreTokenGeneration"), OTHER)
            self.assertEqual(user_pool.with_trigger({**others, **before}, "PreTokenGeneration", self.function),
                             {**others, "PreTokenGeneration": self.function, **config(self.function, version)})
            self.assertEqual(user_pool.with_trigger({**others, **before}, "PreTokenGeneration", None), others)
        for before, version in [
            ({"PreTokenGeneration": OTHER, **config(OTHER, "V3_0")}, "V3_0"),
            (config(self.function, "V2_0"), "V2_0"),
        ]:
            with self.subTest(before):
                self.cognito.update_user_pool(
                    UserPoolId=self.pool, **{**EVERYTHING, "LambdaConfig": {**others, **before}})
                self.aws.calls.clear()
                if OTHER in json.dumps(before):
                    refused = self.make("attach", third, code=1)
                    self.assertIn(f"as PreTokenGeneration: {OTHER}", refused)
                    self.assertNotIn("UpdateUserPool", self.aws.calls)
                    self.assertIn(OTHER, self.make("detach", third, code=1))
                    self.make("attach", third, "REPLACE=1")
                    attached = {"PreTokenGeneration": self.function, **config(self.function, version)}
                else:
                    self.assertIn("already", self.make("attach", third))
                    attached = before
                self.assertEqual(self.describe()["LambdaConfig"], {**others, **attached})
                self.make("detach", third)
                self.assertEqual(self.describe()["LambdaConfig"], others)

    def test_all_three_triggers_at_once(self):
        self.cognito.update_user_pool(UserPoolId=self.pool, **{**EVERYTHING, "LambdaConfig": {"PreSignUp": OTHER}})
        self.aws.calls.clear()
        before = self.describe()
        printed = self.make("attach", "TRIGGERS=PostAuthentication PostConfirmation PreTokenGeneration")
        for name in user_pool.TRIGGERS:
            self.assertIn(f"LambdaConfig.{name}: (none) -> {self.function}", printed)
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1)
        self.assertIn(f"attached    PreTokenGeneration: {self.function}", self.make("status"))
        self.make("detach")
        self.assertEqual(self.describe(), before)

    def test_a_trigger_of_another_function_stays(self):
        self.make("attach")
        self.make("detach")
        self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])
        self.assertIn(OTHER, self.make("detach", "TRIGGERS=PostConfirmation", code=1))

    def test_a_dry_run_changes_nothing(self):
        before = self.describe()
        self.assertIn(f"(none) -> {self.function}", self.make("attach", "DRY_RUN=1"))
        self.assert_untouched(before)
        self.set_trigger(self.function)
        before = self.describe()
        self.assertIn(f"{self.function} -> (none)", self.make("detach", "DRY_RUN=1"))
        self.assert_untouched(before)

    def test_another_function_stays_unless_it_is_to_be_replaced(self):
        self.set_trigger(OTHER)
        before = self.describe()
        refused = self.make("attach", code=1)
        self.assertIn(OTHER, refused)
        self.assertIn("REPLACE=1", refused)
        self.assertIn(OTHER, self.make("detach", code=1))
        self.assert_untouched(before)
        self.make("attach", "REPLACE=1")
        before["LambdaConfig"]["PostAuthentication"] = self.function
        self.assertEqual(self.describe(), before)

    def test_a_deleted_function_can_be_detached(self):
        self.set_trigger(self.function)
        self.functions.delete_function(FunctionName="userhub-signin")
        self.make("detach")
        self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])

    def test_a_setting_that_the_update_drops_is_named_and_can_be_restored(self):
        self.set_trigger(OTHER)
        before = self.describe()

        def careless(body):
            update = json.loads(body)
            del update["DeviceConfiguration"]
            update["Policies"]["PasswordPolicy"]["MinimumLength"] = 6
            return json.dumps(update).encode()

        self.aws.instead["UpdateUserPool"] = careless
        printed = self.make("attach", "REPLACE=1", code=1)
        self.assertIn("DeviceConfiguration.ChallengeRequiredOnNewDevice: true -> (default)", printed)
        self.assertIn("Policies.PasswordPolicy.MinimumLength: 14 -> 6", printed)
        self.assertNotEqual(self.describe(), before)

        self.aws.instead["UpdateUserPool"] = self.as_aws_refuses
        command = next(line for line in printed.splitlines() if line.startswith("aws cognito-idp update-user-pool"))
        run(*shlex.split(command), environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.assertEqual(self.describe(), before)

    def test_a_change_of_mfa_is_noticed_as_well(self):
        def weaken(answer):
            return {**answer, "SoftwareTokenMfaConfiguration": {"Enabled": "UpdateUserPool" not in self.aws.calls}}

        self.aws.also["GetUserPoolMfaConfig"] = weaken
        self.assertIn("MfaConfig.SoftwareTokenMfaConfiguration.Enabled: true -> false", self.make("attach", code=1))

    def test_an_update_that_does_nothing_is_noticed(self):
        self.aws.instead["UpdateUserPool"] = lambda body: Response("{}")
        self.assertIn("the trigger PostAuthentication is (none)", self.make("attach", code=1))

    def test_an_aws_cli_that_does_not_know_every_setting_is_too_old(self):
        def with_news(answer):
            answer = self.as_aws_describes(answer)
            answer["UserPool"]["BrandNew"] = {"Setting": 1}
            answer["UserPool"]["DeviceConfiguration"]["BrandNew"] = True
            answer["UserPool"]["AccountRecoverySetting"]["RecoveryMechanisms"][0]["BrandNew"] = "x"
            return answer

        self.aws.also["DescribeUserPool"] = with_news
        printed = self.make("attach", code=1)
        for path in ["BrandNew", "DeviceConfiguration.BrandNew", "AccountRecoverySetting.RecoveryMechanisms.BrandNew"]:
            self.assertIn(f"UserPool.{path}", printed)
        self.assertIn("install the current version 2", printed)
        self.assertNotIn("UpdateUserPool", self.aws.calls)

    def test_a_change_in_the_meantime_is_not_undone(self):
        def meanwhile(answer):
            if self.aws.calls.count("DescribeUserPool") > 1:
                answer["UserPool"]["DeletionProtection"] = "INACTIVE"
            return self.as_aws_describes(answer)

        self.aws.also["DescribeUserPool"] = meanwhile
        printed = self.make("attach", code=1)
        self.assertIn('DeletionProtection: "ACTIVE" -> "INACTIVE"', printed)
        self.assertNotIn("UpdateUserPool", self.aws.calls)

    def test_cognito_has_to_be_permitted_first(self):
        self.functions.delete_function(FunctionName="userhub-signin")
        self.deploy(pool_arn=self.pool_arn + "x")  # another pool's
        self.permit("userhub-signin", self.pool_arn, SourceAccount="210987654321")
        self.permit("userhub-signin", self.pool_arn, Principal="s3.amazonaws.com")
        self.permit("userhub-signin", self.pool_arn, Action="lambda:GetFunction")
        before = self.describe()
        printed = self.make("attach", code=1)
        self.assertIn("Every sign-in would fail", printed)
        self.assert_untouched(before)
        command = next(line for line in printed.splitlines() if line.startswith("aws lambda add-permission"))
        run(*shlex.split(command), environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.make("attach")
        self.assertEqual(self.describe()["LambdaConfig"]["PostAuthentication"], self.function)

    def test_a_permission_has_to_be_for_this_pool_whatever_its_conditions(self):
        def policy(conditions, _):
            return {"Policy": json.dumps({"Statement": [{
                "Effect": "Allow", "Principal": {"Service": "cognito-idp.amazonaws.com"},
                "Action": "lambda:InvokeFunction", "Condition": conditions}]})}

        this_account, other_account = {"AWS:SourceAccount": [ACCOUNT]}, {"AWS:SourceAccount": ["210987654321"]}
        for granted, conditions in [
            (True, {}),
            (True, {"ArnLike": {"AWS:SourceArn": f"arn:aws:cognito-idp:{REGION}:*:userpool/*"}}),
            (True, {"StringEquals": this_account, "StringLike": {"aws:SourceArn": [OTHER, self.pool_arn]}}),
            (False, {"StringEquals": other_account}),
            (False, {"StringNotEquals": this_account}),
            (False, {"ArnEquals": {"AWS:SourceArn": self.pool_arn[:-1]}}),
            (False, {"StringLike": {"aws:PrincipalOrgID": "*"}}),
        ]:
            with self.subTest(conditions):
                self.aws.also["/2015-03-31/functions/userhub-signin/policy"] = functools.partial(policy, conditions)
                printed = self.make("attach", "DRY_RUN=1", code=0 if granted else 1)
                self.assertEqual("Every sign-in would fail" in printed, not granted)

    def test_a_function_that_cannot_work_is_not_attached(self):
        before = self.describe()
        configuration = "/2015-03-31/functions/userhub-signin/configuration"
        self.aws.also[configuration] = lambda answer: {**answer, "State": "Failed", "StateReason": "out of order"}
        self.assertIn("out of order", self.make("attach", code=1))
        denied = {"Error": {"ErrorCode": "KMSDisabledException", "Message": "the key is disabled"}}
        self.aws.also[configuration] = lambda answer: {**answer, "Environment": denied}
        self.assertIn("the key is disabled", self.make("attach", code=1))
        del self.aws.also[configuration]
        self.functions.update_function_configuration(
            FunctionName="userhub-signin", Environment={"Variables": {"USERHUB_ADMIN_KEY": "userhub_admin_local"}})
        self.assertIn("lacks AMAZON_COGNITO_CONNECTION_ID", self.make("attach", code=1))
        self.assert_untouched(before)

    def test_a_function_that_does_not_return_its_event_is_not_attached(self):
        before = self.describe()
        for answer in [
            Response(b'{"errorType":"Runtime.InvalidEntrypoint"}', headers={"X-Amz-Function-Error": "Unhandled"}),
            Response(b"{}"),
        ]:
            self.aws.instead["Invoke"] = lambda body, answer=answer: answer
            printed = self.make("attach", code=1)
            self.assertIn("Sign-ins would fail, so userhub-signin was not attached", printed)
            self.assertIn(answer.get_data(as_text=True), printed)
            self.assert_untouched(before)

    def test_a_function_that_fails_once_it_is_attached_can_be_detached_at_once(self):
        self.aws.instead["Invoke"] = lambda body: Response(
            b"{}" if "UpdateUserPool" in self.aws.calls else body)
        printed = self.make("attach", code=1)
        self.assertIn(f"Sign-ins may fail. This lets everybody in:\nmake detach USER_POOL_ID={self.pool}\n", printed)
        again = self.make("attach", code=1)
        self.assertIn("Sign-ins may fail", again, "it is attached already, and still broken")

    def test_says_how_to_detach_when_the_function_cannot_be_invoked_any_more(self):
        self.aws.instead["Invoke"] = lambda body: Response(
            b'{"message": "Rate Exceeded"}', 429, headers={"x-amzn-errortype": "TooManyRequestsException"}
        ) if "UpdateUserPool" in self.aws.calls else Response(body)
        printed = self.make("attach", code=1)
        self.assertIn("Lambda refused to invoke it, as it would refuse Cognito: Rate Exceeded", printed)
        self.assertIn(f"This lets everybody in:\nmake detach USER_POOL_ID={self.pool}\n", printed)

    def test_an_update_whose_answer_is_an_error_is_looked_at(self):
        def fail(body):
            self.cognito_update(body)
            return Response(json.dumps({"__type": "InternalErrorException", "message": "no"}), 500)

        self.aws.instead["UpdateUserPool"] = fail
        printed = self.make("attach", code=1)
        self.assertIn("was changed all the same:\n  LambdaConfig.PostAuthentication: (default) ->", printed)
        self.assertNotIn("Nothing was changed", printed)
        self.assertIn("aws cognito-idp update-user-pool", printed)

    def cognito_update(self, body):
        """Lets the update through to the pool."""
        instead = self.aws.instead.pop("UpdateUserPool")
        self.cognito.update_user_pool(**json.loads(body))
        self.aws.instead["UpdateUserPool"] = instead

    def test_a_trigger_that_names_a_version_can_be_detached(self):
        for version in ["7", "$LATEST"]:
            self.set_trigger(f"{self.function}:{version}")
            printed = self.make("detach", code=1)
            self.assertIn(f"Say FUNCTION=userhub-signin:{version}", printed)
            self.make("detach", f"FUNCTION=userhub-signin:{version}")
            self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])

    def test_waits_for_a_function_that_lambda_is_creating_and_wakes_one_that_sleeps(self):
        states = []

        def state(answer):
            return {**answer, "State": states.pop(0) if states else "Active", "StateReason": "busy"}

        self.aws.also["/2015-03-31/functions/userhub-signin/configuration"] = state
        states[:] = ["Active", "Pending", "Pending"]
        self.assertIn("done", self.make("attach", code=0))
        self.make("detach")

        def sleeping(body):
            if self.aws.calls.count("Invoke") == 1:
                return Response(json.dumps({"Type": "User", "message": "inactive"}), 502, headers={
                    "x-amzn-errortype": "ResourceNotReadyException"})
            return Response(body)

        self.aws.calls.clear()
        self.aws.instead["Invoke"] = sleeping
        states[:] = ["Inactive", "Pending"]
        self.assertIn("done", self.make("attach"))

    def test_an_alias_is_asked_for_its_own_policy(self):
        version = self.functions.publish_version(FunctionName="userhub-signin")["Version"]
        self.functions.create_alias(FunctionName="userhub-signin", Name="live", FunctionVersion=version)
        alias = f"{self.function}:live"
        self.assertIn("is a version", self.make("attach", f"FUNCTION=userhub-signin:{version}", code=1))
        dead = self.make("attach", "FUNCTION=userhub-signin:dead", code=1)
        self.assertIn("There is no function userhub-signin:dead", dead)
        policy = "/2015-03-31/functions/userhub-signin/policy"
        self.aws.instead[policy] = lambda body: Response(
            json.dumps({"message": "no policy"}), 404, headers={"x-amzn-errortype": "ResourceNotFoundException"})
        refused = self.make("attach", "FUNCTION=userhub-signin:live", code=1)
        self.assertIn("Every sign-in would fail", refused)
        self.assertIn("--function-name userhub-signin --qualifier live", refused)
        self.assertIn(f"{policy}?Qualifier=live", self.aws.queries)
        del self.aws.instead[policy]
        self.functions.add_permission(
            FunctionName="userhub-signin", Qualifier="live", StatementId="alias", Action="lambda:InvokeFunction",
            Principal="cognito-idp.amazonaws.com", SourceArn=self.pool_arn, SourceAccount=ACCOUNT)
        self.make("attach", "FUNCTION=userhub-signin:live")
        self.assertEqual(self.describe()["LambdaConfig"]["PostAuthentication"], alias)
        # The alias is another function than the function itself.
        refused = self.make("detach", code=1)
        self.assertIn(f"stays: {alias}", refused)
        self.assertIn("FUNCTION=userhub-signin:live", refused)
        self.assertIn(f"another function, {alias}", self.make("status", code=1))
        self.make("detach", "FUNCTION=userhub-signin:live")
        self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])

    def test_an_alias_that_does_not_exist_fails_every_sign_in(self):
        self.set_trigger(f"{self.function}:live")
        printed = self.make("status", "FUNCTION=userhub-signin:live", code=1)
        self.assertIn("every sign-in fails: There is no function userhub-signin:live", printed)
        self.assertIn(f"make detach USER_POOL_ID={self.pool} FUNCTION=userhub-signin:live lets everybody in", printed)

    def test_a_function_of_another_account_or_region_is_another_function(self):
        for other in [self.function.replace(ACCOUNT, "210987654321"), self.function.replace(REGION, "us-east-1")]:
            self.set_trigger(other)
            self.assertIn("REPLACE=1", self.make("attach", code=1))
            self.assertIn("It belongs to another account or region", self.make("detach", code=1))
            self.assertIn(f"another function, {other}", self.make("status", code=1))

    def test_only_yes_means_yes(self):
        self.set_trigger(OTHER)
        before = self.describe()
        for word in ["0", "no", ""]:
            self.assertIn("Say REPLACE=1", self.make("attach", f"REPLACE={word}", code=1))
        self.assertIn("neither yes nor no", self.make("attach", "REPLACE=maybe", code=1))
        self.assert_untouched(before)
        self.assertIn("nothing was changed", self.make("attach", "REPLACE=yes", "DRY_RUN=yes"))
        self.assert_untouched(before)

    def test_the_users_own_settings_of_the_cli_change_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            settings = self.settings_that_change_what_the_cli_prints(folder)
            self.make("attach", environment=settings)
            self.assertEqual(self.describe()["LambdaConfig"]["PostAuthentication"], self.function)
            self.assertIn("There is no function missing", self.make("attach", "FUNCTION=missing", code=1,
                                                                    environment=settings))

    @unittest.skipUnless(os.environ.get("CI") or CLI_2, "no AWS CLI of the system")
    def test_works_with_version_2_of_the_cli_as_well(self):
        self.take_a_plain_pool()
        self.assertRegex(run(CLI_2, "--version").stdout, r"^aws-cli/2\.")
        with tempfile.TemporaryDirectory() as folder:
            # Debian 12's does not know the variable for the endpoint.
            command = pathlib.Path(folder, "aws")
            command.write_text(f'#!/bin/sh\nexec {CLI_2} --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n')
            command.chmod(0o755)
            environment = {**self.settings_that_change_what_the_cli_prints(folder),
                           "PATH": f"{folder}:{os.environ['PATH']}"}
            self.attach_and_detach(environment=environment)
            self.assertIn("There is no function missing", self.make("attach", "FUNCTION=missing", code=1,
                                                                    environment=environment))

    def settings_that_change_what_the_cli_prints(self, folder):
        config = pathlib.Path(folder, "config")
        config.write_text("[default]\noutput = table\ncli_pager = false\ncli_auto_prompt = on\nregion = us-east-1\n"
                          "cli_error_format = json\ncli_timestamp_format = wire\ncli_history = enabled\n")
        return {"AWS_CONFIG_FILE": str(config), "AWS_DEFAULT_OUTPUT": "text", "AWS_PAGER": "false",
                "AWS_CLI_ERROR_FORMAT": "json", "PYTHONIOENCODING": "latin1", "LC_ALL": "C"}

    def test_a_setting_that_aws_stops_echoing_is_no_change(self):
        def sometimes(answer):
            if "UpdateUserPool" not in self.aws.calls:
                self.as_aws_describes(answer)
            return answer

        self.aws.also["DescribeUserPool"] = sometimes
        self.assertIn("none changed", self.make("attach"))

    def test_says_whose_the_pool_is_and_how_to_undo(self):
        def owned(answer):
            answer["UserPool"]["UserPoolTags"]["aws:cloudformation:stack-name"] = "accounts"
            return self.as_aws_describes(answer)

        self.aws.also["DescribeUserPool"] = owned
        printed = self.make("attach", "DRY_RUN=1")
        self.assertIn("belongs to the CloudFormation stack accounts", printed)
        self.aws.also["DescribeUserPool"] = self.as_aws_describes
        before = self.describe()
        printed = self.make("attach")
        self.assertNotIn("belongs to", printed)
        self.assertIn(f"to undo     make detach USER_POOL_ID={self.pool}\n", printed)
        command = next(line for line in printed.splitlines() if line.startswith("to restore")).split(None, 2)[2]
        run(*shlex.split(command), environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.assertEqual(self.describe(), before)

    def test_errors_of_aws_are_explained(self):
        before = self.describe()
        nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        self.assertIn("no credentials", self.make("attach", code=1, environment=nobody))
        nowhere = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
        self.assertIn("check the region in USER_POOL_ID", self.make("attach", code=1, environment=nowhere))
        self.assertIn("no user pool eu-west-1_Nobody", self.make("attach", "USER_POOL_ID=eu-west-1_Nobody", code=1))
        # Each region has its own pools and functions; the region is the one in the pool's id.
        elsewhere = self.pool.replace("eu-west-1", "us-east-1")
        self.assertIn("--region us-east-1", self.make("attach", f"USER_POOL_ID={elsewhere}", code=1))
        self.assertIn("no function missing in eu-west-1", self.make("attach", "FUNCTION=missing", code=1))
        for operation, code, explanation in [
            ("DescribeUserPool", "AccessDeniedException", "lack a permission"),
            ("GetUserPoolMfaConfig", "AccessDeniedException", "lack a permission"),
            ("DescribeUserPool", "ExpiredTokenException", "sign in again"),
            ("UpdateUserPool", "AccessDeniedException", "lack a permission"),
            ("UpdateUserPool", "ConcurrentModificationException", "try again in a minute"),
            ("UpdateUserPool", "InvalidParameterException", "AWS refused"),
        ]:
            with self.subTest(operation=operation, code=code):
                usual = self.aws.instead.get(operation)
                self.aws.refuse(operation, code)
                printed = self.make("attach", code=1)
                self.assertIn(explanation, printed)
                self.assertIn(f"({code}) when calling the {operation} operation", printed)
                self.assertEqual("Nothing was changed" in printed, operation == "UpdateUserPool", printed)
                self.aws.instead[operation] = usual or (lambda body: None)
        self.assertEqual(self.describe(), before)

    def test_an_error_after_the_update_says_that_the_update_was_made(self):
        def fail_afterwards(body):
            if "UpdateUserPool" in self.aws.calls:
                return Response(json.dumps({"__type": "InternalErrorException", "message": "no"}), 500)
            return None

        self.aws.instead["DescribeUserPool"] = fail_afterwards
        self.assertIn("The update was made", self.make("attach", code=1))

    def test_bad_input_says_what_to_type(self):
        for target in ["attach", "detach", "status", "smoke"]:
            for pool in ["", "nonsense", "eu-west-1", "eu-west-1_a b", "it's", "$(id)_x"]:
                with self.subTest(target=target, pool=pool):
                    printed = self.make(target, f"USER_POOL_ID={pool}", code=1)
                    self.assertIn(f"make {target} USER_POOL_ID=eu-west-1_AbCd12345", printed)
        self.assertIn("FUNCTION=userhub-signin:live", self.make("attach", "FUNCTION=a:b:c", code=1))
        self.assertIn("is not a region", self.make("status", f"USER_POOL_ID={self.pool}", "REGION=europe", code=1))
        for triggers in ["PreSignUp", "PostAuthentication,PostConfirmation", "postauthentication"]:
            printed = self.make("attach", f"USER_POOL_ID={self.pool}", f"TRIGGERS={triggers}", code=1)
            self.assertIn(f"no trigger {triggers}", printed)
            self.assertIn('TRIGGERS="PostAuthentication PostConfirmation PreTokenGeneration"', printed)
        self.assertIn("there is no option USERPOOL_ID", self.make("attach", "USERPOOL_ID=x", code=1))
        self.assertNotIn("DescribeUserPool", self.aws.calls)


class Status(Case):
    """CloudWatch Logs Insights' answers are made up here: no emulator evaluates a query."""

    def setUp(self):
        super().setUp()
        self.hour, self.day = [], []

        def start(body):
            query = json.loads(body)
            self.assertEqual(query["logGroupName"], "/aws/lambda/userhub-signin")
            hours = (query["endTime"] - query["startTime"]) // 3600
            return Response(json.dumps({"queryId": {1: "hour", 24: "day"}[hours]}))

        def results(body):
            rows = {"hour": self.hour, "day": self.day}[json.loads(body)["queryId"]]
            return Response(json.dumps({"status": "Complete", "results": [
                [{"field": name, "value": str(value)} for name, value in row.items()] for row in rows]}))

        self.aws.instead |= {"StartQuery": start, "GetQueryResults": results}

    def row(self, n, outcome="reported", kind=None, event_type="SIGNIN", source="PostAuthentication_Authentication"):
        row = {"outcome": outcome, "event_type": event_type, "trigger_source": source, "n": n, "p50": 41.2, "p95": 90,
               "longest": 2001}
        return {**row, "error_kind": kind} if kind else row

    def test_says_that_all_is_well(self):
        self.set_trigger(self.function)
        self.hour = [self.row(40)]
        self.day = [self.row(1500), self.row(7, event_type="SIGNUP", source="PostConfirmation_ConfirmSignUp"),
                    self.row(3, "not_reported", "timed_out")]
        self.aws.client("cloudwatch").put_metric_alarm(
            AlarmName="userhub-signin-errors", ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=1,
            Threshold=1, MetricName="Errors", Namespace="AWS/Lambda", Period=60, Statistic="Sum")
        self.addCleanup(self.aws.client("cloudwatch").delete_alarms, AlarmNames=["userhub-signin-errors"])
        printed = self.make("status")
        for text in [
            f"attached    PostAuthentication: {self.function}",
            f"attached    PostConfirmation: another function, {OTHER}",
            "Cognito may invoke it",
            "USERHUB_ADMIN_KEY present, AMAZON_COGNITO_CONNECTION_ID present, USERHUB_BASE_URL absent",
            "in the last hour: 40 reported, 0 not reported\n",
            "in the last 24 hours: 1507 reported, 3 not reported (timed_out 3)\n",
            "41 ms median, 90 ms 95th percentile, 2001 ms longest",
            "1503 SIGNIN\n", "7 SIGNUP\n", "7 PostConfirmation_ConfirmSignUp\n",
            "alarm       userhub-signin-errors: ",
        ]:
            self.assertIn(text, printed)
        self.assertNotIn("problem", printed)
        self.assertNotIn("UpdateUserPool", self.aws.calls)

    def test_fails_when_the_recent_reports_do_whatever_was_before(self):
        self.set_trigger(self.function)
        self.hour = [self.row(300, "not_reported", "rejected")]
        self.day = [self.row(1500), *self.hour]
        printed = self.make("status", code=1)
        self.assertIn("300 of 300 sign-ins in the last hour were not reported", printed)

    def test_does_not_guess_from_a_log_of_text(self):
        self.set_trigger(self.function)
        self.aws.also["/2015-03-31/functions/userhub-signin/configuration"] = lambda answer: {
            **answer, "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/userhub-signin"}}
        self.assertIn("--logging-config LogFormat=JSON", self.make("status"))

    def test_a_part_that_cannot_be_read_drops_no_other(self):
        self.set_trigger(self.function)
        self.aws.refuse("StartQuery", "AccessDeniedException")
        printed = self.make("status", code=1)
        self.assertIn("problem     reports could not be read: These credentials lack a permission", printed)
        self.assertIn("alarm       none", printed)
        self.assertIn("Cognito may invoke it", printed)

    def test_an_alarm_that_has_gone_off_is_a_problem(self):
        self.set_trigger(self.function)
        cloudwatch = self.aws.client("cloudwatch")
        cloudwatch.put_metric_alarm(
            AlarmName="userhub-signin-throttles", AlarmDescription="raise the quota", EvaluationPeriods=1, Threshold=1,
            ComparisonOperator="GreaterThanThreshold", MetricName="Throttles", Namespace="AWS/Lambda", Period=60,
            Statistic="Sum")
        self.addCleanup(cloudwatch.delete_alarms, AlarmNames=["userhub-signin-throttles"])
        cloudwatch.set_alarm_state(AlarmName="userhub-signin-throttles", StateValue="ALARM", StateReason="test")
        self.assertIn("the alarm userhub-signin-throttles has gone off: raise the quota", self.make("status", code=1))

    def test_names_what_is_wrong(self):
        self.aws.refuse("StartQuery", "ResourceNotFoundException")
        printed = self.make("status", code=1)
        self.assertIn("userhub-signin is not attached", printed)
        self.assertIn("there is no log group", printed)
        self.set_trigger(OTHER)
        printed = self.make("status", code=1)
        self.assertIn(f"PostAuthentication: another function, {OTHER}", printed)
        self.assertIn("userhub-signin is not attached", printed)
        self.set_trigger(self.function)
        self.functions.delete_function(FunctionName="userhub-signin")
        printed = self.make("status", code=1)
        self.assertIn("every sign-in fails: There is no function userhub-signin", printed)
        self.assertIn(f"make detach USER_POOL_ID={self.pool}", printed)
        self.deploy(variables={"USERHUB_BASE_URL": "https://example.com"}, pool_arn=self.pool_arn + "x")
        printed = self.make("status", code=1)
        self.assertIn("every sign-in fails: Cognito may not invoke the function", printed)
        self.assertIn("nothing is reported: USERHUB_ADMIN_KEY and AMAZON_COGNITO_CONNECTION_ID missing", printed)
        self.assertNotIn("example.com", printed)


class Smoke(Case):
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

    def test_reports_a_user_of_the_pool(self):
        self.start()
        printed = self.make("smoke", "USER_NAME=名前 1")
        self.assertIn("came back byte for byte", printed)
        self.assertNotIn("名前", printed)
        self.assertEqual(self.userhub.end(), ["名前 1"])

    def test_shows_a_reported_event(self):
        self.start()
        printed = self.make("smoke")
        self.assertIn("came back byte for byte", printed)
        self.assertIn('"outcome":"reported"', printed)
        self.assertEqual(self.userhub.end(), ["1f0e2d3c-4b5a-4697-8877-665544332211"])

    def test_tells_a_report_that_failed(self):
        self.start("401")
        printed = self.make("smoke", "EVENT=events/minimal.json", code=1)
        self.assertIn("came back byte for byte", printed)
        self.assertIn('"error_kind":"rejected"', printed)
        self.assertEqual(self.userhub.end(), ["sample"])

    def test_tells_a_broken_function(self):
        self.aws.instead["Invoke"] = lambda body: Response(
            b'{"errorType":"Runtime.ExitError"}', headers={"X-Amz-Function-Error": "Unhandled"})
        self.assertIn("Do not attach this function", self.make("smoke", code=1))
        self.aws.instead["Invoke"] = lambda body: Response(body + b" ")
        self.assertIn("did not come back as it was", self.make("smoke", code=1))
        self.aws.instead["Invoke"] = lambda body: Response(body)
        self.assertIn("not seen to be reported", self.make("smoke", code=1))

    def test_refuses_bad_input(self):
        self.assertIn("no file events/none.json", self.make("smoke", "EVENT=events/none.json", code=1))
        self.assertIn("no function missing", self.make("smoke", "FUNCTION=missing", code=1))
