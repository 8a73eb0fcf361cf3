"""A Cognito user pool: what it is like, and how to change its triggers without changing anything else.

AWS's UpdateUserPool resets every setting that a call leaves out.
"""

import ast
import concurrent.futures
import functools
import json
import re
import sys

from aws_cli import Aws, NotFound
from errors import Missing
from function import base

TRIGGERS = ["PostAuthentication", "PostConfirmation", "PreTokenGeneration"]  # the first one is the default

# What a user pool's description says that changes by itself, or that AWS does not use any more.
NOT_SETTINGS = {"LastModifiedDate", "EstimatedNumberOfUsers", "SmsConfigurationFailure", "EmailConfigurationFailure"}
UNUSED_SETTING = "AdminCreateUserConfig.UnusedAccountValidityDays"  # TemporaryPasswordValidityDays replaced it


class UserPool:
    """One user pool, as AWS describes it."""

    def __init__(self, pool_id):
        self.id = pool_id
        self.aws = Aws(pool_id.split("_")[0])
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

    @functools.cached_property
    def mfa(self):
        return self.aws("cognito-idp", "get-user-pool-mfa-config", "--user-pool-id", self.id)

    def calling(self, function_arn):
        """All of the pool's triggers that call a function, or a version or alias of it."""
        return calling(self.description, function_arn)

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
        # AWS refuses to be sent tags that begin with aws: which a pool of a stack has, and keeps.
        tags = update.pop("UserPoolTags", {})
        if tags := {key: value for key, value in tags.items() if not key.startswith("aws:")}:
            update["UserPoolTags"] = tags
        if "PoolName" in skeleton:
            update["PoolName"] = self.description["Name"]
        # AWS describes both of these and refuses to be told both; the second one replaced the first.
        if "TemporaryPasswordValidityDays" in update.get("Policies", {}).get("PasswordPolicy", {}):
            update.get("AdminCreateUserConfig", {}).pop("UnusedAccountValidityDays", None)
        return update


def calling(description, function_arn):
    """The triggers in a pool's description that call a function, or a version or alias of it."""
    attached = {re.sub("Config$", "", field): value["LambdaArn"] if isinstance(value, dict) else value
                for field, value in description.get("LambdaConfig", {}).items()}
    return sorted(trigger for trigger, arn in attached.items() if base(arn) == base(function_arn))


def callers(aws, function_arn):
    """Every user pool of the region that calls a function, with the triggers. AWS's list does not have the triggers."""
    ids, more = [], []
    while more is not None:  # with --max-results, which it demands, the CLI does not page by itself
        page = aws("cognito-idp", "list-user-pools", "--max-results", "60", *more)
        ids += [pool["Id"] for pool in page.get("UserPools", [])]
        more = ["--next-token", page["NextToken"]] if page.get("NextToken") else None

    if len(ids) > 20:
        print(f"waiting     looking at {len(ids)} user pools", file=sys.stderr)

    def look(pool_id):
        found = aws.ask("cognito-idp", "describe-user-pool", "--user-pool-id", pool_id)
        return calling(found["UserPool"], function_arn) if found else []

    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # AWS takes 15 a second
        return {pool_id: triggers for pool_id, triggers in zip(ids, pool.map(look, ids)) if triggers}


def trigger_arn(lambda_config, trigger):
    """The function that is this trigger. For one trigger AWS has two fields; a pool may have either or both."""
    found = lambda_config.get(trigger) or lambda_config.get(f"{trigger}Config", {})
    return found.get("LambdaArn") if isinstance(found, dict) else found


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
        return {"UserPool": {"everything, as this version does not log AWS's answers": True}}
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
    """As much of `value` as the skeleton has a place for. What is empty means none; the CLI refuses some of it."""
    if isinstance(value, dict) and isinstance(skeleton, dict) and set(skeleton) != {"KeyName"}:  # KeyName: free keys
        return {key: accepted(part, skeleton[key]) for key, part in value.items()
                if key in skeleton and part not in ("", {})}
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
           ["", ".LambdaArn", ".LambdaVersion", "Config.LambdaArn", "Config.LambdaVersion"]}
    return {path: value for path, value in settings.items() if path not in own}


def differences(before, after):
    return [f"  {path}: {before.get(path, '(default)')} -> {after.get(path, '(default)')}"
            for path in sorted({**before, **after}) if before.get(path) != after.get(path)]
