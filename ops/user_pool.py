"""A Cognito user pool: what it is like, and how to change its triggers without changing anything else.

AWS's UpdateUserPool resets every setting that a call leaves out.
"""

import ast
import json
import re

from aws_cli import Aws, NotFound, Refusal, region_of
from function import Missing, base

TRIGGERS = ["PostAuthentication", "PostConfirmation", "PreTokenGeneration"]  # the first one is the default

# What a user pool's description says that changes by itself, or that AWS does not use any more.
NOT_SETTINGS = {"LastModifiedDate", "EstimatedNumberOfUsers", "SmsConfigurationFailure", "EmailConfigurationFailure"}
UNUSED_SETTING = "AdminCreateUserConfig.UnusedAccountValidityDays"  # TemporaryPasswordValidityDays replaced it


class UserPool:
    """One user pool, as AWS describes it."""

    def __init__(self, pool_id, region=None):
        self.id = pool_id
        self.aws = Aws(region or region_of(pool_id))
        try:
            answer, log = self.aws.with_log("cognito-idp", "describe-user-pool", "--user-pool-id", pool_id, "--debug")
        except NotFound as error:
            raise Missing(f"There is no user pool {pool_id} in this AWS account: see "
                          f"aws cognito-idp list-user-pools --max-results 60 --region {self.aws.region}") from error
        self.description = answer["UserPool"]
        self.unknown = sorted(set(unknown_fields(raw_answer(log), answer)))
        self.arn = self.description["Arn"]
        attached = self.description.get("LambdaConfig", {})
        self.triggers = {trigger: arn for trigger in TRIGGERS if (arn := trigger_arn(attached, trigger))}
        self.mfa = self.aws("cognito-idp", "get-user-pool-mfa-config", "--user-pool-id", pool_id)
        self.region_option = f" REGION={region}" if region else ""

    def command(self, target, function, more=""):
        """A make command for this pool, to show to the user."""
        name = "" if function == "userhub-signin" else f" FUNCTION={function}"
        return f"make {target} USER_POOL_ID={self.id}{name}{self.region_option}{more}"

    def calling(self, function_arn):
        """All of the pool's triggers that call a function, or a version or alias of it."""
        function = base(function_arn)
        attached = {re.sub("Config$", "", field): value["LambdaArn"] if isinstance(value, dict) else value
                    for field, value in self.description.get("LambdaConfig", {}).items()}
        return sorted(trigger for trigger, arn in attached.items() if base(arn) == function)

    def warn_of_owner(self):
        if owner := self.owner():
            print(f"note        {self.id} belongs to {owner}: change its trigger there, because a later deployment of "
                  "that code reverts what is changed here (docs/infrastructure.md)")

    def owner(self):
        """What the pool's tags say of the code that owns it, or None. Terraform leaves no tag of its own."""
        stack = self.description.get("UserPoolTags", {}).get("aws:cloudformation:stack-name")
        return f"the CloudFormation stack {stack} (made by CloudFormation, SAM or CDK)" if stack else None

    def settings(self):
        """Every setting by its path, to compare. Absent and empty are the same, and so are lists in another order."""
        described = {key: value for key, value in self.description.items() if key not in NOT_SETTINGS}
        settings = dict(flat({**described, "MfaConfig": self.mfa}))
        settings.pop(UNUSED_SETTING, None)
        return settings

    def as_update(self):
        """The input of UpdateUserPool that changes nothing: every field of the description that the call takes.

        Which ones it takes comes from the AWS CLI's own model, so that settings which AWS adds survive as well.
        """
        skeleton = self.aws("cognito-idp", "update-user-pool", "--generate-cli-skeleton", "input")
        update = {"UserPoolId": self.id, **accepted(self.description, skeleton)}
        if "PoolName" in skeleton:
            update["PoolName"] = self.description["Name"]
        # AWS describes both of these and refuses to be told both; the second one replaced the first.
        if "TemporaryPasswordValidityDays" in update.get("Policies", {}).get("PasswordPolicy", {}):
            update.get("AdminCreateUserConfig", {}).pop("UnusedAccountValidityDays", None)
        return update


def trigger_arn(lambda_config, trigger):
    """The function that is this trigger. For one trigger AWS has two fields; a pool may have either or both."""
    versioned = lambda_config.get(f"{trigger}Config", {})
    return lambda_config.get(trigger) or versioned.get("LambdaArn")


def with_trigger(lambda_config, trigger, arn):
    """The LambdaConfig with another function as this trigger, or with none."""
    changed = {field: value for field, value in lambda_config.items() if field not in (trigger, f"{trigger}Config")}
    if arn:
        changed[trigger] = arn
        if trigger == "PreTokenGeneration":
            # AWS wants the field with the version for new functions, and the same ARN in both. The function returns the
            # event of any version unchanged; the first one exists on every plan.
            version = lambda_config.get(f"{trigger}Config", {}).get("LambdaVersion", "V1_0")
            changed[f"{trigger}Config"] = {"LambdaVersion": version, "LambdaArn": arn}
    return changed


def raw_answer(log):
    """AWS's answer as it came. Of that the CLI shows only what it knows, but with --debug it logs everything."""
    bodies = re.findall(r"Response body:\n(b'.*'|b\".*\")$", log, re.MULTILINE)  # the text of a bytes object
    if not bodies:
        raise Refusal("This AWS CLI does not log AWS's answers (--debug), so nobody can tell whether it knows every "
                      "setting of the user pool: install the current version 2.")
    return json.loads(ast.literal_eval(bodies[-1]))


def unknown_fields(raw, parsed, path=""):
    """The paths of the fields that the CLI dropped, for not knowing them."""
    if isinstance(raw, dict) and isinstance(parsed, dict):
        for key, value in raw.items():
            if key in parsed:
                yield from unknown_fields(value, parsed[key], f"{path}{key}.")
            elif value is not None:  # the CLI leaves nulls out
                yield f"{path}{key}"
    elif isinstance(raw, list) and isinstance(parsed, list):
        for one, other in zip(raw, parsed):  # as long as each other: the CLI drops fields, not elements
            yield from unknown_fields(one, other, path)


def accepted(value, skeleton):
    """As much of `value` as the skeleton has a place for. Empty text means none; the CLI refuses it."""
    if isinstance(value, dict) and isinstance(skeleton, dict) and set(skeleton) != {"KeyName"}:  # KeyName: free keys
        return {key: accepted(part, skeleton[key]) for key, part in value.items() if key in skeleton and part != ""}
    if isinstance(value, list) and isinstance(skeleton, list) and skeleton:
        return [accepted(part, skeleton[0]) for part in value]
    return value


def flat(value, path=""):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from flat(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        if value:
            yield path, json.dumps(sorted(value, key=json.dumps))
    elif value not in (None, ""):
        yield path, json.dumps(value)


def without(triggers, settings):
    """The settings but for those of the triggers."""
    own = {f"LambdaConfig.{trigger}{field}" for trigger in triggers for field in
           ["", "Config.LambdaArn", "Config.LambdaVersion"]}
    return {path: value for path, value in settings.items() if path not in own}


def differences(before, after):
    return [f"  {path}: {before.get(path, '(default)')} -> {after.get(path, '(default)')}"
            for path in sorted({**before, **after}) if before.get(path) != after.get(path)]
