"""Deploys the function as a CloudFormation stack, and removes it."""

import contextlib
import getpass
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import template
from aws_cli import PINNED, Aws, AwsError, NotFound, Refusal, region_of
from function import Function, Missing, arn_of
from package import Package
from user_pool import UserPool

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Parameters that deploy itself sets, and why they are not for PARAMETERS.
OWN = {"UserPoolId": "say USER_POOL_ID=", "FunctionName": "say FUNCTION=", "Architecture": "the zip decides",
       "CodeVersion": "the zip decides"}


def describe(aws, name):
    """The stack, or None."""
    try:
        return aws("cloudformation", "describe-stacks", "--stack-name", name)["Stacks"][0]
    except AwsError as error:
        if error.code == "ValidationError" and "does not exist" in (error.message or ""):
            return None
        raise


def is_ours(stack):
    """Whether a stack is of this project's template. No other may be updated, protected or deleted."""
    return {"UserPoolId", "FunctionName", "AdminKey"} <= values_of(stack).keys()


def refuse_another(stack, region):
    if stack["StackStatus"] != "REVIEW_IN_PROGRESS" and not is_ours(stack):  # which has no parameters yet
        raise Refusal(f"The stack {stack['StackName']} in {region} is not this function's, and is left alone: say "
                      "FUNCTION= for another name.")


def calling_elsewhere(function, pool):
    """Another user pool of those in the function's policy that calls it, or None."""
    for pool_id in function.permitted_pools() - {pool.id}:
        with contextlib.suppress(Missing):
            if UserPool(pool_id, pool.aws.region).calling(function.arn):
                return pool_id
    return None


def deploy(options):
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    known = template.parameters(text)
    given = template.parse(options.parameters, known)
    for name in OWN:
        if name in given:
            raise Refusal(f"PARAMETERS: {name} is not set here: {OWN[name]}")
    package = Package(options.zip)
    region = options.region or region_of(options.user_pool_id)
    aws = Aws(region)
    stack = describe(aws, options.function)
    refuse_stack(stack, options, region)
    if stack is None:
        refuse_existing_function(aws, options.function)
    given = {"UserPoolId": options.user_pool_id, "FunctionName": options.function,
             "Architecture": package.architecture, "CodeVersion": code_version(package), **given}
    new_key = options.new_key or os.environ.get("USERHUB_ADMIN_KEY")
    if needs_key(stack, given) or new_key and not has_secret(stack, given):
        given["AdminKey"] = admin_key(known["AdminKey"])
    elif given.get("AdminKeySecretArn"):
        given["AdminKey"] = "none"
    pool = UserPool(options.user_pool_id, options.region)
    advise_portal(pool, given, stack)

    print(f"deploying   {package.path} ({package.architecture}, sha256 {package.sha256})\n"
          f"as          {options.function} in {region}", flush=True)
    outputs = sam_deploy(options.function, region, text, package, given)
    function = Function(aws, options.function, pool.arn)
    if problem := function.check():
        attached = function.arn in pool.triggers.values()
        advice = (f"Sign-ins fail. This lets everybody in:\n{pool.command('detach', function.name)}" if attached
                  else "Do not attach the function.")
        raise Refusal(f"The stack is deployed, but {problem}\n{advice}")
    print(f"checked     {function.name} returned a token refresh byte for byte")
    if not function.cognito_may_invoke(pool.arn):  # somebody removed it, and CloudFormation does not look
        raise Refusal(f"The stack is deployed, but Cognito may not invoke {function.name} for this user pool. This "
                      f"lets it:\n{function.permission_command(pool.id, pool.arn)}")
    zip_option = f" ZIP={options.zip}" if os.environ.get("ZIP") else ""
    next_steps(pool, function, outputs, region, zip_option)
    return 0


def refuse_stack(stack, options, region):
    """Refuses what would break a stack that exists, or that CloudFormation would refuse later and less clearly."""
    if stack is None:
        return
    refuse_another(stack, region)
    status, name = stack["StackStatus"], stack["StackName"]
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS"):
        raise Refusal(f"The stack {name} is {status}, and cannot be updated: remove it, then deploy again.\n"
                      f"make remove USER_POOL_ID={options.user_pool_id} FUNCTION={name}")
    if status == "UPDATE_ROLLBACK_FAILED":
        raise Refusal(f"The stack {name} is {status}, and cannot be updated until this has worked:\n"
                      f"aws cloudformation continue-update-rollback --region {region} --stack-name {name}")
    if status.endswith("_IN_PROGRESS"):
        raise Refusal(f"The stack {name} is {status}: wait until that has ended.")
    values = values_of(stack)
    for parameter, option, wanted in [("UserPoolId", "USER_POOL_ID", options.user_pool_id),
                                      ("FunctionName", "FUNCTION", options.function)]:
        if values.get(parameter) == "*":
            raise Refusal(f"The stack {name} is for every user pool of the account, as part of another template: "
                          "deploy it with that.")
        if values[parameter] != wanted:
            raise Refusal(
                f"The stack {name} is for {parameter}={values[parameter]}. Another value would make CloudFormation "
                "replace what that pool still calls, and every sign-in would fail. For another user pool, deploy a "
                f"second stack with another FUNCTION=, such as FUNCTION={options.function}-2; otherwise say "
                f"{option}={values[parameter]}.")


def refuse_existing_function(aws, name):
    try:
        aws("lambda", "get-function-configuration", "--function-name", name, "--query", "FunctionArn")
    except NotFound:
        return
    raise Refusal(f"There is a function {name} already, and no stack of that name: cargo lambda deploy may have made "
                  "it. A stack cannot take it over. Deploy under another name with FUNCTION=, attach that one with "
                  "REPLACE=1, and delete the old one afterwards.")


def code_version(package):
    """For the function's description: the version, and the zip's hash."""
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    return f"{version}, sha256 {package.sha256}"


def values_of(stack):
    """The values of the stack's parameters. CloudFormation shows **** for a key."""
    parameters = (stack or {}).get("Parameters", [])
    return {parameter["ParameterKey"]: parameter.get("ParameterValue") for parameter in parameters}


def has_secret(stack, given):
    """Whether the key is in a secret, after this deployment."""
    return bool(given.get("AdminKeySecretArn", values_of(stack).get("AdminKeySecretArn")))


def needs_key(stack, given):
    """Whether there is no key yet. The template does not allow a stack without one, in a parameter or a secret."""
    return not has_secret(stack, given) and (stack is None or bool(values_of(stack).get("AdminKeySecretArn")))


def admin_key(parameter):
    """UserHub's Admin API key: from the environment, from a terminal that does not show it, or from standard input."""
    key = os.environ.get("USERHUB_ADMIN_KEY")
    if not key:
        prompt = "UserHub's Admin API key (not shown): "
        key = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()
    key = key.strip()
    if not key or key == "none":
        raise Refusal("There is no Admin API key. Create one in UserHub's Admin console (Developers), and run this on "
                      "a terminal, or put the key into the environment variable USERHUB_ADMIN_KEY or on standard "
                      "input. Or name a secret: PARAMETERS=\"AdminKeySecretArn=arn:aws:secretsmanager:…\".")
    if problem := parameter.problem(key):
        raise Refusal(f"The Admin API key {problem}")
    return key


def advise_portal(pool, given, stack):
    """Chooses the Portal client's options by what the pool has, unless they are given."""
    if not given.get("PortalDomain"):
        return
    domain = pool.description.get("CustomDomain") or pool.description.get("Domain")
    if not domain:
        print("note        the user pool has no domain, so nobody can sign in to the Portal until you add one "
              "(Cognito, Branding, Domain)")
        return
    found = pool.aws("cognito-idp", "describe-user-pool-domain", "--domain", domain)["DomainDescription"]
    if found.get("ManagedLoginVersion") == 2:
        given.setdefault("PortalManagedLogin", "yes")
    factors = pool.description.get("Policies", {}).get("SignInPolicy", {}).get("AllowedFirstAuthFactors", [])
    if set(factors) - {"PASSWORD"}:
        given.setdefault("PortalChoiceBasedSignIn", "yes")


def sam_deploy(name, region, text, package, given):
    """Lets SAM upload the zip as it is and deploy the stack. The stack's outputs by name."""
    sam = shutil.which("sam")
    if not sam:
        raise Refusal("SAM is missing: make setup installs it into .tools, and AWS CloudShell has it.")
    with tempfile.TemporaryDirectory() as folder:  # only for this user
        source, values = pathlib.Path(folder, "template.yaml"), pathlib.Path(folder, "parameters.yaml")
        source.write_text(template.with_code(text, package.path.resolve()), encoding="utf-8")
        # In a file, because arguments are in the process list.
        values.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in given.items()), encoding="utf-8")
        bucket = os.environ.get("BUCKET")
        command = [sam, "deploy", "--template-file", str(source), "--stack-name", name, "--region", region,
                   *(["--s3-bucket", bucket] if bucket else ["--resolve-s3"]), "--s3-prefix", name,
                   "--capabilities", "CAPABILITY_IAM", "--parameter-overrides", f"file://{values}",
                   "--no-confirm-changeset", "--no-fail-on-empty-changeset", "--output", "json"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
                              errors="replace", cwd=folder, env={**os.environ, **PINNED})
    events = [event for event in map(parse_event, done.stdout.splitlines()) if event]
    failed = [f"  {event.get('logical_id')}: {event.get('reason')}" for event in events
              if event.get("type") == "event" and "FAILED" in str(event.get("status"))]
    result = next((event for event in events if event.get("type") == "result"), {})
    if done.returncode != 0:
        said = result.get("error", {}).get("message") or done.stderr.strip() or done.stdout.strip()
        if "No such option" in said:
            said += "\nThis SAM is too old: install version 1.170 or later, or run make setup."
        raise Refusal("\n".join(["CloudFormation did not deploy the stack.", *failed, said]))
    print("done        " + ("nothing to change" if result.get("status") == "no_changes" else "the stack is deployed"))
    stack = describe(Aws(region), name)
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def parse_event(line):
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def next_steps(pool, function, outputs, region, zip_option):
    missing = function.missing_settings()
    print("\nNext:")
    if "ConnectionAccessKeySecretArn" in outputs:
        print("the access key for UserHub's connection:\n  aws secretsmanager get-secret-value --region "
              f"{region} --query SecretString --output text --secret-id {outputs['ConnectionAccessKeySecretArn']}")
    if "AMAZON_COGNITO_CONNECTION_ID" in missing:
        print("the connection's id, once UserHub shows it:\n  "
              + pool.command("deploy", function.name, f'{zip_option} PARAMETERS="ConnectionId=conn_…"'))
    elif function.arn in pool.triggers.values():
        print("the function is attached; how it is doing:\n  " + pool.command("status", function.name))
    else:
        print("a report to UserHub, without a sign-in:\n  " + pool.command("smoke", function.name))
        print("sign-ins:\n  " + pool.command("attach", function.name))


def remove(options):
    pool = UserPool(options.user_pool_id, options.region)
    aws = pool.aws
    stack = describe(aws, options.function)
    if stack is None:
        raise Refusal(f"There is no stack {options.function} in {aws.region}: say FUNCTION= for another name.")
    values = values_of(stack)
    refuse_another(stack, aws.region)
    if values.get("UserPoolId") not in (None, pool.id, "*"):
        raise Refusal(f"The stack {options.function} is for the user pool {values['UserPoolId']}: say USER_POOL_ID="
                      f"{values['UserPoolId']}.")
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    # Also by the stack's name: a stack whose function was renamed keeps the role of the one that the pool still calls.
    own = arn_of(options.function, aws.region, pool.arn)
    calling = {trigger for arn in {outputs.get("FunctionArn", own), own} for trigger in pool.calling(arn)}
    if calling:
        raise Refusal(f"{pool.id} calls the function ({', '.join(sorted(calling))}), so every sign-in would fail. "
                      f"First:\n{pool.command('detach', options.function)}")
    with contextlib.suppress(Missing):
        if other := calling_elsewhere(Function(aws, options.function, pool.arn), pool):
            raise Refusal(f"{other} calls the function, so every sign-in there would fail. First:\n"
                          f"make detach USER_POOL_ID={other} FUNCTION={options.function}")
    if stack.get("EnableTerminationProtection"):
        aws("cloudformation", "update-termination-protection", "--stack-name", options.function,
            "--no-enable-termination-protection")
    pool.warn_of_owner()
    print(f"deleting    the stack {options.function} in {aws.region}, with its log", flush=True)
    aws("cloudformation", "delete-stack", "--stack-name", options.function)
    try:
        aws("cloudformation", "wait", "stack-delete-complete", "--stack-name", options.function)
    except AwsError as error:
        raise Refusal("The stack is not deleted yet, or could not be: aws cloudformation describe-stack-events "
                      f"--region {aws.region} --stack-name {options.function} says why.\n{error}") from error
    print("done        what is left: the zip in SAM's bucket (stack aws-sam-cli-managed-default), the descriptions in "
          "user-pools/, and in UserHub the connection and the Admin API key")
    return 0
