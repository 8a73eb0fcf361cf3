"""`attach` and `detach` through the AWS CLI, against moto's AWS, which refuses what AWS refuses."""

import copy
import functools
import json
import os
import pathlib
import shlex
import sys
import tempfile
import unittest

from program import CLI_2, EVERYTHING, OTHER, WholePool, leaves
from support import ACCOUNT, REGION, ROOT, free_port, run
from werkzeug.wrappers import Response

sys.path.insert(0, str(ROOT / "ops"))
import user_pool  # noqa: E402


class AttachAndDetach(WholePool):
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

        printed = self.program("attach")
        self.assertIn(f"LambdaConfig.PostAuthentication: (none) -> {self.function}", printed)
        self.assertNotIn("LambdaConfig.PostConfirmation", printed)
        attached = copy.deepcopy(before)
        attached["LambdaConfig"]["PostAuthentication"] = self.function
        self.assertEqual((self.describe(), self.mfa()), (attached, mfa))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1)
        self.assertEqual(self.update["PoolName"], "customers")  # moto never changes a name

        [description, restore] = self.saved()
        self.assertEqual(json.loads(restore.read_text())["LambdaConfig"], EVERYTHING["LambdaConfig"])
        described = json.loads(description.read_text())["UserPool"]
        del described["LastModifiedDate"]
        self.assertEqual(described, before)
        self.assertIn(str(description.relative_to(ROOT)), printed)
        for path in self.saved():
            self.assertEqual(path.stat().st_mode & 0o077, 0, "others may not read how people sign in")

        self.assertIn("is attached to", self.program("attach"))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1, "attached already")

        self.assertIn(f"PostAuthentication: {self.function} -> (none)", self.program("detach"))
        self.assertEqual((self.describe(), self.mfa()), (before, mfa))
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 2)
        self.assertIn("is not attached to", self.program("detach"))
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
        self.program("attach", **how)
        self.assertEqual(self.describe().pop("LambdaConfig"), {"PostAuthentication": self.function})
        self.program("detach", **how)
        after = self.describe()
        self.assertEqual(after.pop("LambdaConfig", {}), before.pop("LambdaConfig", {}))
        self.assertEqual(after, before)

    def test_both_triggers_are_attached_and_detached(self):
        both = ["--triggers", "PostAuthentication", "PostConfirmation"]
        before = self.describe()
        refused = self.program("attach", *both, code=1)
        self.assertIn(f"as PostConfirmation: {OTHER}", refused)
        self.assertIn("--replace", refused)
        self.assert_untouched(before)

        printed = self.program("attach", *both, "--replace")
        self.assertIn(f"LambdaConfig.PostAuthentication: (none) -> {self.function}", printed)
        self.assertIn(f"LambdaConfig.PostConfirmation: {OTHER} -> {self.function}", printed)
        attached = copy.deepcopy(before)
        attached["LambdaConfig"] |= {"PostAuthentication": self.function, "PostConfirmation": self.function}
        self.assertEqual(self.describe(), attached)
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1)
        self.assertIn("already (PostAuthentication, PostConfirmation)", self.program("attach", *both))
        self.assertIn("already (PostAuthentication)", self.program("attach"))
        status = self.program("status", code=1)
        self.assertIn(f"attached    PostAuthentication: {self.function}", status)
        self.assertIn(f"attached    PostConfirmation: {self.function}", status)

        self.program("detach", "--triggers", "PostConfirmation")
        del attached["LambdaConfig"]["PostConfirmation"]
        self.assertEqual(self.describe(), attached)
        self.program("attach", *both)
        self.assertEqual(self.describe()["LambdaConfig"]["PostConfirmation"], self.function)
        self.program("detach")
        del attached["LambdaConfig"]["PostAuthentication"]
        self.assertEqual(self.describe(), attached)
        self.assertIn("is not attached to", self.program("detach", *both))

    def test_the_third_trigger_in_every_form_that_a_pool_may_have_it(self):
        def config(arn, version):
            return {"PreTokenGenerationConfig": {"LambdaVersion": version, "LambdaArn": arn}}

        third = ["--triggers", "PreTokenGeneration"]
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
                    refused = self.program("attach", *third, code=1)
                    self.assertIn(f"as PreTokenGeneration: {OTHER}", refused)
                    self.assertNotIn("UpdateUserPool", self.aws.calls)
                    self.assertIn(OTHER, self.program("detach", *third, code=1))
                    self.program("attach", *third, "--replace")
                    attached = {"PreTokenGeneration": self.function, **config(self.function, version)}
                else:
                    self.assertIn("already", self.program("attach", *third))
                    attached = before
                self.assertEqual(self.describe()["LambdaConfig"], {**others, **attached})
                self.program("detach", *third)
                self.assertEqual(self.describe()["LambdaConfig"], others)

    def test_all_three_triggers_at_once(self):
        self.cognito.update_user_pool(UserPoolId=self.pool, **{**EVERYTHING, "LambdaConfig": {"PreSignUp": OTHER}})
        self.aws.calls.clear()
        before = self.describe()
        printed = self.program("attach", "--triggers", "PostAuthentication", "PostConfirmation", "PreTokenGeneration")
        for name in user_pool.TRIGGERS:
            self.assertIn(f"LambdaConfig.{name}: (none) -> {self.function}", printed)
        self.assertEqual(self.aws.calls.count("UpdateUserPool"), 1)
        self.assertIn(f"attached    PreTokenGeneration: {self.function}", self.program("status", code=1))
        self.program("detach")
        self.assertEqual(self.describe(), before)

    def test_a_trigger_of_another_function_stays(self):
        self.program("attach")
        self.program("detach")
        self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])
        self.assertIn(OTHER, self.program("detach", "--triggers", "PostConfirmation", code=1))

    def test_a_dry_run_changes_nothing(self):
        before = self.describe()
        self.assertIn(f"(none) -> {self.function}", self.program("attach", "--dry-run"))
        self.assert_untouched(before)
        self.set_trigger(self.function)
        before = self.describe()
        self.assertIn(f"{self.function} -> (none)", self.program("detach", "--dry-run"))
        self.assert_untouched(before)

    def test_another_function_stays_unless_it_is_to_be_replaced(self):
        self.set_trigger(OTHER)
        before = self.describe()
        refused = self.program("attach", code=1)
        self.assertIn(OTHER, refused)
        self.assertIn("--replace", refused)
        self.assertIn(OTHER, self.program("detach", code=1))
        self.assert_untouched(before)
        self.program("attach", "--replace")
        before["LambdaConfig"]["PostAuthentication"] = self.function
        self.assertEqual(self.describe(), before)

    def test_a_deleted_function_can_be_detached(self):
        self.set_trigger(self.function)
        self.functions.delete_function(FunctionName="userhub-signin")
        self.program("detach")
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
        printed = self.program("attach", "--replace", code=1)
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
        self.assertIn("MfaConfig.SoftwareTokenMfaConfiguration.Enabled: true -> false", self.program("attach", code=1))

    def test_an_update_that_does_nothing_is_noticed(self):
        self.aws.instead["UpdateUserPool"] = lambda body: Response("{}")
        self.assertIn("the trigger PostAuthentication is (none)", self.program("attach", code=1))

    def test_an_aws_cli_that_does_not_know_every_setting_is_too_old(self):
        def with_news(answer):
            answer = self.as_aws_describes(answer)
            answer["UserPool"]["BrandNew"] = {"Setting": 1}
            answer["UserPool"]["DeviceConfiguration"]["BrandNew"] = True
            answer["UserPool"]["AccountRecoverySetting"]["RecoveryMechanisms"][0]["BrandNew"] = "x"
            return answer

        self.aws.also["DescribeUserPool"] = with_news
        printed = self.program("attach", code=1)
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
        printed = self.program("attach", code=1)
        self.assertIn('DeletionProtection: "ACTIVE" -> "INACTIVE"', printed)
        self.assertNotIn("UpdateUserPool", self.aws.calls)

    def test_cognito_has_to_be_permitted_first(self):
        self.functions.delete_function(FunctionName="userhub-signin")
        self.deploy(pool_arn=self.pool_arn + "x")  # another pool's
        self.permit("userhub-signin", self.pool_arn, SourceAccount="210987654321")
        self.permit("userhub-signin", self.pool_arn, Principal="s3.amazonaws.com")
        self.permit("userhub-signin", self.pool_arn, Action="lambda:GetFunction")
        before = self.describe()
        printed = self.program("attach", code=1)
        self.assertIn("Every sign-in would fail: Cognito", printed)
        self.assert_untouched(before)
        command = next(line for line in printed.splitlines() if line.startswith("aws lambda add-permission"))
        run(*shlex.split(command), environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.program("attach")
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
                printed = self.program("attach", "--dry-run", code=0 if granted else 1)
                self.assertEqual("Every sign-in would fail" in printed, not granted)

    def test_a_function_that_cannot_work_is_not_attached(self):
        before = self.describe()
        configuration = "/2015-03-31/functions/userhub-signin/configuration"
        self.aws.also[configuration] = lambda answer: {**answer, "State": "Failed", "StateReason": "out of order"}
        self.assertIn("out of order", self.program("attach", code=1))
        del self.aws.also[configuration]
        self.aws.refuse("Invoke", "KMSDisabledException", "the key is disabled")
        self.assertIn("the key is disabled", self.program("attach", code=1))
        self.aws.refuse("Invoke", "AccessDeniedException", "The role … cannot be assumed by Lambda.")
        self.assertIn("sign-ins would fail", self.program("attach", code=1))
        self.aws.instead["Invoke"] = lambda body: Response(body)
        self.functions.update_function_configuration(
            FunctionName="userhub-signin", Environment={"Variables": {"USERHUB_ADMIN_KEY": "userhub_admin_local"}})
        self.assertIn("lacks AMAZON_COGNITO_CONNECTION_ID", self.program("attach", code=1))
        self.assert_untouched(before)

    def test_a_function_that_does_not_return_its_event_is_not_attached(self):
        before = self.describe()
        for answer in [
            Response(b'{"errorType":"Runtime.InvalidEntrypoint"}', headers={"X-Amz-Function-Error": "Unhandled"}),
            Response(b"{}"),
        ]:
            self.aws.instead["Invoke"] = lambda body, answer=answer: answer
            printed = self.program("attach", code=1)
            self.assertIn("userhub-signin was not attached, because sign-ins would fail", printed)
            self.assertIn(answer.get_data(as_text=True), printed)
            self.assert_untouched(before)

    def test_a_function_that_fails_once_it_is_attached_can_be_detached_at_once(self):
        self.aws.instead["Invoke"] = lambda body: Response(
            b"{}" if "UpdateUserPool" in self.aws.calls else body)
        printed = self.program("attach", code=1)
        self.assertRegex(printed, rf"Sign-ins may fail. This restores sign-in:\n.* detach {self.pool}\n")
        again = self.program("attach", code=1)
        self.assertIn("Sign-ins may fail", again, "it is attached already, and still broken")

    def test_says_how_to_detach_when_the_function_cannot_be_invoked_any_more(self):
        self.aws.instead["Invoke"] = lambda body: Response(
            b'{"message": "Rate Exceeded"}', 429, headers={"x-amzn-errortype": "TooManyRequestsException"}
        ) if "UpdateUserPool" in self.aws.calls else Response(body)
        printed = self.program("attach", code=1)
        self.assertIn("Lambda refused to invoke it, as it would refuse Cognito: Rate Exceeded", printed)
        self.assertRegex(printed, rf"This restores sign-in:\n.* detach {self.pool}\n")

    def test_an_update_whose_answer_is_an_error_is_looked_at(self):
        def fail(body):
            self.cognito_update(body)
            return Response(json.dumps({"__type": "InternalErrorException", "message": "no"}), 500)

        self.aws.instead["UpdateUserPool"] = fail
        printed = self.program("attach", code=1)
        self.assertIn("was changed all the same:\n  LambdaConfig.PostAuthentication: (default) ->", printed)
        self.assertNotIn("Nothing was changed", printed)
        self.assertIn("aws cognito-idp update-user-pool", printed)

    def cognito_update(self, body):
        """Lets the update through to the pool."""
        instead = self.aws.instead.pop("UpdateUserPool")
        self.cognito.update_user_pool(**json.loads(body))
        self.aws.instead["UpdateUserPool"] = instead

    def test_an_alias_and_a_version_and_any_trigger_come_off_as_well(self):
        for name, arn in [("PostAuthentication", f"{self.function}:7"), ("PostAuthentication", f"{self.function}:live"),
                          ("PreSignUp", self.function)]:
            before = {key: value for key, value in EVERYTHING["LambdaConfig"].items() if key != name}
            self.cognito.update_user_pool(
                UserPoolId=self.pool, **{**EVERYTHING, "LambdaConfig": {**before, name: arn}})
            self.assertIn(f"LambdaConfig.{name}: {arn} -> (none)", self.program("detach"))
            self.assertEqual(self.describe()["LambdaConfig"], before)

    def test_waits_for_a_function_that_lambda_is_creating_and_wakes_one_that_sleeps(self):
        states = []

        def state(answer):
            return {**answer, "State": states.pop(0) if states else "Active", "StateReason": "busy"}

        self.aws.also["/2015-03-31/functions/userhub-signin/configuration"] = state
        states[:] = ["Active", "Pending", "Pending"]
        self.assertIn("done", self.program("attach", code=0))
        self.program("detach")

        def sleeping(body):
            if self.aws.calls.count("Invoke") == 1:
                return Response(json.dumps({"Type": "User", "message": "inactive"}), 502, headers={
                    "x-amzn-errortype": "ResourceNotReadyException"})
            return Response(body)

        self.aws.calls.clear()
        self.aws.instead["Invoke"] = sleeping
        states[:] = ["Inactive", "Pending"]
        self.assertIn("done", self.program("attach"))

    def test_a_function_of_another_account_or_region_is_another_function(self):
        for other in [self.function.replace(ACCOUNT, "210987654321"), self.function.replace(REGION, "us-east-1")]:
            self.set_trigger(other)
            self.assertIn("--replace", self.program("attach", code=1))
            self.assertIn("It is of another account or region", self.program("detach", code=1))

    def test_the_users_own_settings_of_the_cli_change_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            settings = self.settings_that_change_what_the_cli_prints(folder)
            self.program("attach", environment=settings)
            self.assertEqual(self.describe()["LambdaConfig"]["PostAuthentication"], self.function)
            self.assertIn("There is no function missing", self.program("attach", "--name", "missing", code=1,
                                                                    environment=settings))

    @unittest.skipUnless(os.environ.get("CI") or CLI_2, "no AWS CLI of the system")
    @unittest.skipUnless(os.environ.get("CI") or CLI_2, "no AWS CLI of the system")
    def test_works_with_version_2_of_the_cli_as_well(self):
        self.take_a_plain_pool()
        self.assertRegex(run(CLI_2, "--version").stdout, r"^aws-cli/2\.")
        # Debian 12's does not know the variable for the endpoint.
        path = self.cli(f'exec {CLI_2} --endpoint-url "$AWS_ENDPOINT_URL" "$@"')
        with tempfile.TemporaryDirectory() as folder:
            environment = {**self.settings_that_change_what_the_cli_prints(folder), **path}
            self.attach_and_detach(environment=environment)
            self.assertIn("There is no function missing", self.program("attach", "--name", "missing", code=1,
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
        self.assertIn("none changed", self.program("attach"))

    def test_says_whose_the_pool_is_and_how_to_undo(self):
        def owned(answer):
            answer["UserPool"]["UserPoolTags"]["aws:cloudformation:stack-name"] = "accounts"
            return self.as_aws_describes(answer)

        self.aws.also["DescribeUserPool"] = owned
        printed = self.program("attach", "--dry-run")
        self.assertIn("belongs to the CloudFormation stack accounts", printed)
        self.aws.also["DescribeUserPool"] = self.as_aws_describes
        before = self.describe()
        printed = self.program("attach")
        self.assertNotIn("belongs to", printed)
        self.assertRegex(printed, rf"to undo     python3 .*ops detach {self.pool}\n")
        command = next(line for line in printed.splitlines() if line.startswith("to restore")).split(None, 2)[2]
        run(*shlex.split(command), environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.assertEqual(self.describe(), before)

    # detach always has a way.

    def owned(self, answer):
        """As a pool of a stack: AWS describes tags that it does not take."""
        tags = {"aws:cloudformation:stack-name": "accounts", "aws:cloudformation:logical-id": "Pool"}
        answer["UserPool"].setdefault("UserPoolTags", {}).update(tags)
        return self.as_aws_describes(answer)

    def test_a_pool_of_a_stack_keeps_its_tags_and_is_not_sent_them(self):
        self.aws.also["DescribeUserPool"] = self.owned
        self.assertIn("belongs to the CloudFormation stack accounts", self.program("attach"))
        self.assertEqual(self.update["UserPoolTags"], EVERYTHING["UserPoolTags"])
        printed = self.program("detach")
        self.assertIn("none changed", printed)
        self.assertNotIn('"aws:', "".join(path.read_text() for path in self.saved() if "restore" in path.name))

    def test_what_restores_the_pool_never_names_this_function(self):
        self.set_trigger(self.function)
        both = ["--triggers", "PostAuthentication", "PreTokenGeneration", "--replace"]
        for command, options in [("attach", both), ("detach", [])]:
            printed = self.program(command, *options)
            self.assertIn("resets the pool to what it was, but without userhub-signin", printed)
        restoring = [path.read_text() for path in self.saved() if "restore" in path.name]
        self.assertEqual(len(restoring), 2)
        for text in restoring:
            self.assertNotIn(self.function, text)
        self.assertEqual(json.loads(restoring[0])["LambdaConfig"], EVERYTHING["LambdaConfig"])

    def test_detaches_on_a_full_disk(self):
        self.set_trigger(self.function)
        command = "ulimit -f 0; exec python3 ops detach " + self.pool
        done = run("sh", "-c", command, environment={"AWS_ENDPOINT_URL": self.aws.url}, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("saved       (nowhere: ", done.stdout)
        self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])
        done = run("sh", "-c", command.replace("detach", "attach"), check=False,
                   environment={"AWS_ENDPOINT_URL": self.aws.url})
        self.assertEqual(done.returncode, 1, "but attaches only with a way back")

    def test_saves_in_the_temporary_folder_where_it_may_not_write(self):
        self.set_trigger(self.function)
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "user-pools").write_text("a file, so no folder")
        printed = self.program("detach", cwd=folder, environment={"TMPDIR": str(folder)})
        self.assertRegex(printed, rf"saved       {folder}/user-pools-\w+/{self.pool}")

    def test_detaches_with_a_cli_that_is_behind_if_told_so(self):
        def with_news(answer):
            answer["UserPool"]["BrandNew"] = True
            return self.as_aws_describes(answer)

        self.set_trigger(self.function)
        self.aws.also["DescribeUserPool"] = with_news
        refused = self.program("detach", code=1)
        self.assertIn("UserPool.BrandNew", refused)
        self.assertIn("With --force it goes on, and those may be reset", refused)
        self.assertIn("Amazon Cognito, User pools, " + self.pool, refused)
        self.program("detach", "--force")
        self.assertEqual(self.describe()["LambdaConfig"], EVERYTHING["LambdaConfig"])

    def test_every_failure_of_detach_names_the_way_through_the_console(self):
        self.set_trigger(self.function)
        way = f"in AWS's console, Amazon Cognito, User pools, {self.pool}, Extensions"
        for operation, code, text in [
            ("DescribeUserPool", "ExpiredTokenException", "Sign in again"),
            ("UpdateUserPool", "AccessDeniedException", "lack a permission"),
            ("UpdateUserPool", "InvalidSmsRoleTrustRelationshipException", "AWS refused"),
            ("UpdateUserPool", "TooManyRequestsException", "fewer requests"),
        ]:
            usual = self.aws.instead.get(operation, lambda body: None)
            self.aws.refuse(operation, code)
            printed = self.program("detach", code=1)
            self.assertIn(text, printed)
            self.assertIn(way, printed)
            self.aws.instead[operation] = usual
        nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        self.assertIn(way, self.program("detach", code=1, environment=nobody))

    def test_an_interruption_at_any_step_leaves_a_pool_as_it_was_or_as_it_should_be(self):
        before = self.describe()
        for command, calling, other in [("attach", self.function, None), ("detach", None, self.function)]:
            step, interrupted = (0 if command == "attach" else 2), 0
            while True:
                self.set_trigger(other or OTHER)
                if command == "attach":
                    self.cognito.update_user_pool(UserPoolId=self.pool, **EVERYTHING)
                step += 4  # not each of them, because it takes seconds
                said, code, calls = self.interrupt(step, command)
                found = self.describe()
                trigger = found["LambdaConfig"].pop("PostAuthentication", None)
                self.assertEqual(found, before)
                self.assertIn(trigger, [calling, other], said)
                self.assertNotIn("Traceback", said)
                if calls < step:  # it had ended before
                    self.assertEqual((code, trigger), (0, calling), said)
                    break
                self.assertNotEqual(code, 0, said)
                interrupted += 1
            self.assertGreater(interrupted, 0)

    def test_a_function_that_lambda_never_runs_is_not_attached(self):
        concurrency = "/2019-09-30/functions/userhub-signin/concurrency"
        self.aws.instead[concurrency] = lambda body: Response('{"ReservedConcurrentExecutions": 0}')
        self.assertIn("reserved concurrency of 0, so every sign-in would fail", self.program("attach", code=1))
        self.assertNotIn("UpdateUserPool", self.aws.calls)
        self.aws.instead[concurrency] = lambda body: Response('{"ReservedConcurrentExecutions": 1}')
        self.assertIn("sign-ins beyond 1 at the same time fail", self.program("attach"))

    def test_a_function_that_another_pool_calls_is_not_attached(self):
        other = self.cognito.create_user_pool(PoolName="b", LambdaConfig={"PreSignUp": f"{self.function}:live"})
        self.addCleanup(self.cognito.delete_user_pool, UserPoolId=other["UserPool"]["Id"])
        self.assertIn(f"userhub-signin is attached to {other['UserPool']['Id']}", self.program("attach", code=1))
        self.aws.refuse("ListUserPools", "AccessDeniedException")
        self.assertIn("whether another user pool calls userhub-signin is unknown", self.program("attach"))

    def test_finds_callers_on_every_page_of_user_pools(self):
        def pages(body):
            if "NextToken" not in json.loads(body):
                return Response(json.dumps({"UserPools": [{"Id": self.pool}], "NextToken": "more"}))
            return Response(json.dumps({"UserPools": [{"Id": other}]}))

        other = self.cognito.create_user_pool(PoolName="b", LambdaConfig={"CustomMessage": self.function})
        other = other["UserPool"]["Id"]
        self.addCleanup(self.cognito.delete_user_pool, UserPoolId=other)
        self.aws.instead["ListUserPools"] = pages
        self.assertIn(f"userhub-signin is attached to {other}", self.program("attach", code=1))

    def test_errors_of_aws_are_explained(self):
        before = self.describe()
        nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        self.assertIn("no credentials", self.program("attach", code=1, environment=nobody))
        nowhere = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
        self.assertIn("check the region in the user pool's id", self.program("attach", code=1, environment=nowhere))
        self.assertIn("no user pool eu-west-1_Nobody", self.program("attach", pool="eu-west-1_Nobody", code=1))
        # Each region has its own pools and functions; the region is the one in the pool's id.
        elsewhere = self.pool.replace("eu-west-1", "us-east-1")
        self.assertIn("--region us-east-1", self.program("attach", pool=elsewhere, code=1))
        self.assertIn("no function missing in eu-west-1", self.program("attach", "--name", "missing", code=1))
        for operation, code, explanation in [
            ("DescribeUserPool", "AccessDeniedException", "lack a permission"),
            ("GetUserPoolMfaConfig", "AccessDeniedException", "lack a permission"),
            ("DescribeUserPool", "ExpiredTokenException", "Sign in again"),
            ("UpdateUserPool", "AccessDeniedException", "lack a permission"),
            ("UpdateUserPool", "ConcurrentModificationException", "try again in a minute"),
            ("UpdateUserPool", "InvalidParameterException", "AWS refused"),
        ]:
            with self.subTest(operation=operation, code=code):
                usual = self.aws.instead.get(operation)
                self.aws.refuse(operation, code)
                printed = self.program("attach", code=1)
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
        self.assertIn("The update was made", self.program("attach", code=1))

    def test_bad_input_says_what_to_type(self):
        for pool in ["nonsense", "eu-west-1", "eu-west-1_a b", "it's", "$(id)_x"]:
            for command in ["attach", "detach", "status", "remove"]:
                printed = self.program(command, pool=pool, code=2)
                self.assertIn("is not of the form eu-west-1_AbCd12345", printed)
        self.assertIn("is not of the form userhub-signin", self.program("attach", "--name", "a:b", code=2))
        for triggers in ["PreSignUp", "PostAuthentication,PostConfirmation", "postauthentication"]:
            printed = self.program("attach", "--triggers", triggers, code=2)
            self.assertIn("choose from", printed)
        self.assertIn("unrecognized arguments: --repl", self.program("attach", "--repl", code=2))
        self.assertNotIn("DescribeUserPool", self.aws.calls)
