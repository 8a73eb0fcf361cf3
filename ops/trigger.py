"""Attaches the function to a Cognito user pool, takes it off again, and says how it is doing.

`make attach`, `make detach`, `make status` and `make smoke` run this. All it knows of AWS it asks the AWS CLI, so it
works with whatever credentials and profiles the CLI works with; beside the CLI it needs nothing but Python.
"""

import argparse
import ast
import base64
import collections
import copy
import datetime
import fnmatch
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

TRIGGERS = ["PostAuthentication", "PostConfirmation", "PreTokenGeneration"]  # the first one is the default
SETTINGS = {"USERHUB_ADMIN_KEY": True, "AMAZON_COGNITO_CONNECTION_ID": True, "USERHUB_BASE_URL": False,
            "USERHUB_EXTRA_CA_CERTS": False, "USERHUB_REPORT": False}  # name: whether it is required
SAVED = pathlib.Path("user-pools")
RECENT_HOURS = 24
MOST_LINES = 1000  # of log that `status` reads

# What a user pool's description says that changes by itself.
NOT_SETTINGS = {"LastModifiedDate", "EstimatedNumberOfUsers", "SmsConfigurationFailure", "EmailConfigurationFailure"}

# What the AWS CLI says, and what that means to somebody who ran a make target.
EXPLANATIONS = [
    (r"Unable to locate credentials|NoCredentials|config profile .* could not be found|Partial credentials",
     "The AWS CLI has no credentials: run aws configure, aws sso login, or set AWS_PROFILE."),
    (r"Expired|expired|UnrecognizedClient|InvalidClientTokenId|InvalidSignature|SSO",
     "AWS does not take these credentials (any more): sign in again, then check with aws sts get-caller-identity."),
    (r"AccessDenied|not authorized",
     "These credentials lack a permission; the README lists those that each target needs."),
    (r"ConcurrentModification|ResourceConflict|TooManyRequests|Throttling",
     "Somebody else is changing this at the moment: try again in a minute."),
    (r"Could not connect|Invalid endpoint",
     "AWS cannot be reached in region {region}: is the region in USER_POOL_ID right, and is there a network?"),
]


class Refusal(Exception):
    """Ends the program with one message for its user."""


class Missing(Refusal):
    """What was asked for does not exist."""


class AwsError(Refusal):
    """The AWS CLI failed."""

    def __init__(self, region, command, stderr):
        lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["nothing"]
        # The last line, but where later ones give details of it.
        said = next((line for line in reversed(lines) if "An error occurred (" in line), lines[-1])
        meanings = (meaning for pattern, meaning in EXPLANATIONS if re.search(pattern, said))
        meaning = next(meanings, "AWS refused.").format(region=region)
        super().__init__(f"{meaning}\naws {command} says: {said}")


class NotFound(AwsError):
    """The AWS CLI failed because AWS has no such thing."""


class Aws:
    """The AWS CLI in one region."""

    def __init__(self, region):
        self.region = region

    def __call__(self, *arguments):
        return self.with_log(*arguments)[0]

    def with_log(self, *arguments):
        """The answer, and what the CLI logged."""
        command = ["aws", "--region", self.region, "--output", "json", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True,
                                  env={**os.environ, "AWS_PAGER": "", "AWS_CLI_AUTO_PROMPT": "off"})
        except FileNotFoundError:
            raise Refusal("The AWS CLI is missing: see https://docs.aws.amazon.com/cli/latest/userguide/"
                          "getting-started-install.html") from None
        if done.returncode != 0:
            error = NotFound if "An error occurred (ResourceNotFoundException)" in done.stderr else AwsError
            raise error(self.region, " ".join(arguments[:2]), done.stderr)
        return json.loads(done.stdout or "{}"), done.stderr


def region_of(pool_id):
    return pool_id.split("_")[0]


class UserPool:
    """One user pool, as AWS describes it."""

    def __init__(self, pool_id):
        self.id = pool_id
        self.aws = Aws(region_of(pool_id))
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

    def settings(self):
        """Every setting by its path, to compare. Absent and empty are the same, and so are lists in another order."""
        described = {key: value for key, value in self.description.items() if key not in NOT_SETTINGS}
        return dict(flat({**described, "MfaConfig": self.mfa}))

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
        for one, other in zip(raw, parsed, strict=True):
            yield from unknown_fields(one, other, path)


def accepted(value, skeleton):
    """As much of `value` as the skeleton has a place for."""
    if isinstance(value, dict) and isinstance(skeleton, dict) and set(skeleton) != {"KeyName"}:  # KeyName: free keys
        return {key: accepted(part, skeleton[key]) for key, part in value.items() if key in skeleton}
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


class Function:
    """The deployed function. Never holds a value of its environment: the AWS CLI is asked for the names alone."""

    def __init__(self, aws, name):
        try:
            found = aws("lambda", "get-function-configuration", "--function-name", name, "--query",
                        "{arn: FunctionArn, state: State, reason: StateReason, log_group: LoggingConfig.LogGroup,"
                        " log_format: LoggingConfig.LogFormat,"
                        " variables: keys(not_null(Environment.Variables, `{}`)), trouble: Environment.Error.Message}")
        except NotFound as error:
            raise Missing(f"There is no function {name} in {aws.region}, the region of the user pool: deploy it "
                          "there with make deploy, or name another with FUNCTION=.") from error
        self.name = name
        self.arn = found["arn"]
        self.variables = set(found["variables"])
        self.log_group = found["log_group"] or f"/aws/lambda/{name}"
        self.logs_text = found["log_format"] == "Text"
        self.trouble = None
        if found["trouble"]:
            self.trouble = f"Lambda cannot read its environment variables: {found['trouble']}"
        elif found["state"] != "Active":
            self.trouble = f"its state is {found['state']}: {found['reason']}"

    def missing_settings(self):
        return [name for name, required in SETTINGS.items() if required and name not in self.variables]


def cognito_may_invoke(aws, function_name, pool_arn):
    """Whether the function's policy lets Cognito call it for this pool."""
    try:
        policy = json.loads(aws("lambda", "get-policy", "--function-name", function_name)["Policy"])
    except NotFound:  # of a policy; that there is a function is known
        return False
    return any(allows(statement, pool_arn) for statement in policy["Statement"])


def allows(statement, pool_arn):
    principal = statement["Principal"]
    service = principal.get("Service") if isinstance(principal, dict) else principal
    facts = {"aws:sourcearn": pool_arn, "aws:sourceaccount": pool_arn.split(":")[4]}
    return (
        statement["Effect"] == "Allow"
        and service in ("cognito-idp.amazonaws.com", "*")
        and statement["Action"] in ("lambda:InvokeFunction", "lambda:*")
        and all(
            meets(operator, facts.get(key.lower()), wanted)
            for operator, wants in statement.get("Condition", {}).items()
            for key, wanted in wants.items()
        )
    )


def meets(operator, fact, wanted):
    """Whether a condition of a policy is met. One that is not known here is taken as not met."""
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if fact and operator in ("ArnLike", "ArnEquals", "StringLike"):
        return any(fnmatch.fnmatchcase(fact, pattern) for pattern in wanted)
    return operator == "StringEquals" and fact in wanted


def attach(options):
    pool = UserPool(options.user_pool_id)
    function = Function(pool.aws, options.function)
    if function.trouble:
        raise Refusal(f"Sign-ins would fail with the function {function.name}: {function.trouble}")
    if missing := function.missing_settings():
        raise Refusal(f"No sign-in would be reported, for {function.name} lacks {' and '.join(missing)}: give it with "
                      "make deploy (ConnectionId, AdminKey or AdminKeySecretArn).")
    if not cognito_may_invoke(pool.aws, function.name, pool.arn):
        raise Refusal(
            f"Every sign-in would fail, for Cognito may not invoke {function.name} for this user pool. Run make deploy "
            "with UserPoolId=" + pool.id + ", or:\n" + shlex.join([
                "aws", "lambda", "add-permission", "--region", pool.aws.region, "--function-name", function.name,
                "--statement-id", f"cognito-{pool.id}", "--action", "lambda:InvokeFunction", "--principal",
                "cognito-idp.amazonaws.com", "--source-arn", pool.arn, "--source-account", pool.arn.split(":")[4]]))
    wanted = {trigger: function.arn for trigger in options.triggers or TRIGGERS[:1]}
    missing = {trigger: arn for trigger, arn in wanted.items() if pool.triggers.get(trigger) != arn}
    if not missing:
        print(f"{function.name} is attached to {pool.id} already ({', '.join(wanted)}); nothing was changed.")
        return 0
    others = [f"{trigger}: {pool.triggers[trigger]}" for trigger in missing if trigger in pool.triggers]
    if others and not options.replace:
        raise Refusal(f"Another function is attached to {pool.id}, as {' and '.join(others)}\nSay REPLACE=1 to put "
                      f"{function.name} in its place; Cognito calls only one.")
    return set_triggers(pool, missing, options.dry_run)


def detach(options):
    pool = UserPool(options.user_pool_id)
    # By name, not by asking Lambda: a function that somebody deleted has to come off all the more.
    own = {trigger: None for trigger in options.triggers or TRIGGERS
           if trigger in pool.triggers and function_name(pool.triggers[trigger]) == options.function}
    if own:
        return set_triggers(pool, own, options.dry_run)
    others = [pool.triggers[trigger] for trigger in options.triggers or TRIGGERS[:1] if trigger in pool.triggers]
    if others:
        raise Refusal(f"Not {options.function} but another function is attached to {pool.id}, and stays: "
                      f"{others[0]}\nSay FUNCTION={function_name(others[0])} if that is the one to take off.")
    print(f"No function is attached to {pool.id}; nothing was changed.")
    return 0


def function_name(arn):
    return arn.split(":")[6]


def set_triggers(pool, wanted, dry_run):
    """Changes each trigger to its ARN, or takes it off, and proves that nothing else has changed."""
    if pool.unknown:
        raise Refusal("This AWS CLI is too old for this user pool, and would reset settings that it does not know ("
                      + ", ".join(pool.unknown) + "): install the current version 2, or set the trigger in the console "
                      "(Extensions, Lambda triggers). Nothing was changed.")
    restore = pool.as_update()
    update = copy.deepcopy(restore)
    for trigger, arn in wanted.items():
        update["LambdaConfig"] = with_trigger(update.get("LambdaConfig", {}), trigger, arn)
    before = pool.settings()

    print(f"user pool   {pool.id} ({pool.description['Name']})")
    for trigger, arn in wanted.items():
        print(f"will change LambdaConfig.{trigger}: {pool.triggers.get(trigger, '(none)')} -> {arn or '(none)'}")
    if dry_run:
        print(f"unchanged   {len(before)} settings; this was DRY_RUN, nothing was changed")
        return 0

    stem = SAVED / f"{pool.id}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%fZ}"
    described = save(stem, "description", {"UserPool": pool.description, "MfaConfig": pool.mfa})
    print(f"saved       {described}")
    restoring = save(stem, "restore", restore)
    # Whatever somebody changed since the first look would be undone by the update.
    if changes := differences(before, UserPool(pool.id).settings()):
        raise Refusal("Somebody changed the user pool just now, so nothing was changed by this: try again.\n"
                      + "\n".join(changes))
    pool.aws("cognito-idp", "update-user-pool", "--cli-input-json", f"file://{save(stem, 'update', update)}")

    try:
        after = UserPool(pool.id)
    except Refusal as refusal:
        raise Refusal("The update was made, but what it changed could not be checked: compare the pool with "
                      f"{described}\n{refusal}") from refusal
    for trigger, arn in wanted.items():
        if after.triggers.get(trigger) != arn:
            raise Refusal(f"AWS took the update, but the trigger {trigger} is {after.triggers.get(trigger, '(none)')}: "
                          "run this again.")
    others = without(wanted, before)
    if changes := differences(others, without(wanted, after.settings())):
        raise Refusal("The trigger is set, but the update changed something else as well:\n" + "\n".join(changes)
                      + "\nTo restore everything, the trigger included:\n" + shlex.join([
                          "aws", "cognito-idp", "update-user-pool", "--region", pool.aws.region,
                          "--cli-input-json", f"file://{restoring}"])
                      + f"\nHow it all was is in {described} (MfaConfig is set with set-user-pool-mfa-config).")
    print(f"done        {len(others)} other settings compared with before: none changed")
    return 0


def save(stem, what, value):
    SAVED.mkdir(mode=0o700, exist_ok=True)
    path = pathlib.Path(f"{stem}-{what}.json")
    path.write_text(json.dumps(value, indent=2) + "\n")
    return path


def without(triggers, settings):
    """The settings but for those of the triggers."""
    own = {f"LambdaConfig.{trigger}{field}" for trigger in triggers for field in
           ["", "Config.LambdaArn", "Config.LambdaVersion"]}
    return {path: value for path, value in settings.items() if path not in own}


def differences(before, after):
    return [f"  {path}: {before.get(path, '(default)')} -> {after.get(path, '(default)')}"
            for path in sorted({**before, **after}) if before.get(path) != after.get(path)]


def status(options):
    """Says what is attached and how it fares. Fails unless the function is attached, can be called and is set up."""
    pool = UserPool(options.user_pool_id)
    trouble = []

    def say(label, text, problem=None):
        print(f"{label:<12}{text}")
        if problem:
            trouble.append(problem)

    say("user pool", f"{pool.id} ({pool.description['Name']})")
    attached = options.function in map(function_name, pool.triggers.values())
    for trigger in TRIGGERS:
        arn = pool.triggers.get(trigger)
        is_other = arn and function_name(arn) != options.function
        say("attached", f"{trigger}: {'another function, ' if is_other else ''}{arn or 'nothing'}")
    if not attached:
        trouble.append(f"{options.function} is not attached: make attach USER_POOL_ID={pool.id}")
    blocked = "every sign-in fails: " if attached else ""
    try:
        function = Function(pool.aws, options.function)
    except Missing as missing:
        say("function", "missing", f"{blocked}{missing}")
        if attached:
            trouble.append(f"make detach USER_POOL_ID={pool.id} lets everybody in")
        return conclude(trouble)
    say("function", function.arn, function.trouble and blocked + function.trouble)
    if cognito_may_invoke(pool.aws, function.name, pool.arn):
        say("permission", "Cognito may invoke it for this user pool")
    else:
        say("permission", "missing", f"{blocked}Cognito may not invoke the function: make deploy")
    say("settings", ", ".join(f"{name} {'present' if name in function.variables else 'absent'}" for name in SETTINGS))
    if missing := function.missing_settings():
        trouble.append(f"nothing is reported: {' and '.join(missing)} missing")
    if function.logs_text:
        say("reports", "unknown, the function logs text: aws lambda update-function-configuration --region "
            f"{pool.aws.region} --function-name {function.name} --logging-config LogFormat=JSON")
    else:
        reports, kinds = recent_reports(pool.aws, function.log_group)
        say("reports", f"in the last {RECENT_HOURS} hours: {reports}")
        for kind in kinds:
            say("", kind)
    return conclude(trouble)


def conclude(trouble):
    for problem in trouble:
        print(f"problem     {problem}")
    return 1 if trouble else 0


def recent_reports(aws, log_group):
    """How reports went, in one line, and a line for each kind of event."""
    since = int((time.time() - RECENT_HOURS * 3600) * 1000)
    try:
        messages = aws("logs", "filter-log-events", "--log-group-name", log_group, "--start-time", str(since),
                       "--filter-pattern", '{ $.outcome = "*" }', "--max-items", str(MOST_LINES), "--query",
                       "events[].message")
    except NotFound:
        return f"unknown, there is no log group {log_group}", []
    lines = [line for line in map(outcome_line, messages) if line]
    kinds = collections.Counter(line.get("error_kind") for line in lines if line["outcome"] == "not_reported")
    reported = len(lines) - sum(kinds.values())
    text = f"{reported} reported, {sum(kinds.values())} not reported"
    if kinds:
        text += f" ({', '.join(f'{kind} {count}' for kind, count in kinds.most_common())})"
    if lines:
        text += f"; the last at {max(line.get('timestamp', '') for line in lines)}"
    by_kind = collections.Counter(
        f"{line['event_type']} from {line.get('trigger_source', 'an unknown trigger')}"
        for line in lines if "event_type" in line)
    return (text + (f" (the first {MOST_LINES} lines)" if len(messages) >= MOST_LINES else ""),
            [f"{count} {kind}" for kind, count in by_kind.most_common()])


def outcome_line(text):
    """The fields of the function's line about a sign-in, or None for any other line."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and "outcome" in fields else None


def smoke(options):
    """Invokes the deployed function, and says whether the event came back and was reported."""
    event = pathlib.Path(options.event)
    if not event.is_file():
        raise Refusal(f"There is no file {event}: say for example EVENT=events/post-authentication.json")
    sent = event.read_bytes().strip()  # white space around it is an editor's, not Cognito's
    aws = Aws(region_of(options.user_pool_id))
    Function(aws, options.function)  # says what to do if there is none
    with tempfile.TemporaryDirectory() as folder:
        payload, answer = pathlib.Path(folder, "event"), pathlib.Path(folder, "answer")
        payload.write_bytes(sent)
        done = aws("lambda", "invoke", "--function-name", options.function, "--payload", f"fileb://{payload}",
                   "--log-type", "Tail", str(answer))
        received = answer.read_bytes()
    log = base64.b64decode(done.get("LogResult", "")).decode(errors="replace").splitlines()
    outcomes = {line: fields["outcome"] for line in log if (fields := outcome_line(line))}
    print("event       " + ("came back byte for byte" if received == sent else "did not come back as it was"))
    for line in outcomes or log or ["(no log came with the answer)"]:
        print(f"log         {line}")
    if "FunctionError" in done or received != sent:
        raise Refusal("Sign-ins would fail. Do not attach this function; if it is attached, make detach.")
    if "reported" not in outcomes.values():
        raise Refusal("Sign-ins work, but this one was not seen to be reported; the README's table of error kinds says "
                      "what to do.")
    return 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["attach", "detach", "status", "smoke"])
    for option in ["--user-pool-id", "--function", "--event", "--triggers"]:
        parser.add_argument(option, default="")
    for flag in ["--replace", "--dry-run"]:
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    example = f"make {options.action} USER_POOL_ID=eu-west-1_AbCd12345"
    if not options.user_pool_id:
        raise Refusal(f"USER_POOL_ID is missing: say for example {example}")
    # Region and id, as in the API's reference for UserPoolId.
    if not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d+_[0-9A-Za-z]+", options.user_pool_id):
        raise Refusal(f"USER_POOL_ID={options.user_pool_id} is not a user pool id: say for example {example}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", options.function):
        raise Refusal(f"FUNCTION={options.function} is not the name of a function: say for example {example} "
                      "FUNCTION=userhub-signin")
    options.triggers = options.triggers.split()
    if unknown := [trigger for trigger in options.triggers if trigger not in TRIGGERS]:
        raise Refusal(f"The function is no trigger {unknown[0]}: say for example {example} "
                      f"TRIGGERS=\"{' '.join(TRIGGERS)}\"")
    return options


def main():
    os.umask(0o077)  # what is saved describes how people sign in
    try:
        options = arguments()
        return {"attach": attach, "detach": detach, "status": status, "smoke": smoke}[options.action](options)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
