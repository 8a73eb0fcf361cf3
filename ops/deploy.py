"""Deploys the function, its queue and alarms as a CloudFormation stack."""

import getpass
import os
import re
import sys

import bucket
import package
import sqs
import stack
from aws_cli import undisturbed
from errors import Missing, Refusal
from function import OK, PROBLEM, Function
from user_pool import UserPool, callers

PARAMETERS = {"UserPoolId", "FunctionName", "AdminKey"}  # of every version of the template
# Parameters that deploy itself sets, and why they are not for --parameter.
OWN = {"UserPoolId": "it is the pool you name", "FunctionName": "say --name", "ConnectionId": "say --connection-id",
       "AdminKey": "it would be in your shell's history; deploy asks for it",
       **dict.fromkeys(["Architecture", "CodeVersion", "CodeBucket", "CodeKey"], "the zip decides")}
TRIAL = "Tries a new zip before userhub-signin gets it; can be deleted"


def deploy(options):
    for parameter in OWN.keys() & options.parameters.keys():
        raise Refusal(f"--parameter {parameter} is not set here: {OWN[parameter]}.")
    pool = UserPool(options.pool)
    aws, name = pool.aws, options.name
    found = stack.ours(aws, name, PARAMETERS, pool.id)
    values = {} if found and found["StackStatus"] in stack.EMPTY else stack.values_of(found)
    if not values:
        refuse_leftovers(aws, name)
    given = {"UserPoolId": pool.id, "FunctionName": name, **options.parameters}
    if options.connection_id:
        given["ConnectionId"] = options.connection_id
    elif not values.get("ConnectionId"):
        raise Refusal("Without the id of UserHub's connection nothing would be reported: say --connection-id conn_…. "
                      f"UserHub shows it once the connection is set up ({options.say('connect')}).")
    live = Function(aws, name) if values else None
    if options.parameters.get("Queue") == "no":
        refuse_waiting(live, options)
    code = package.choose(options.zip, options.architecture, live and live.configuration["architectures"][0])
    print(f"deploying   {code.path} ({code.architecture}, sha256 {code.sha256})\nas          {name} in {aws.region}",
          flush=True)
    place, key = bucket.upload(aws, options.bucket, name, code)
    given.update(Architecture=code.architecture, CodeVersion=f"{package.version()}, sha256 {code.sha256}",
                 CodeBucket=place, CodeKey=key)
    if live and live.configuration["sha256"] != code.code_sha256:
        trial(live, code, place, key, stack.tags_of(found, options))
    ask_for_key(given, values, options)
    template = package.released_template(package.held("template.yaml").decode(), code.architecture)
    try:
        changed = stack.change(aws, name, template, given, options)
    except Refusal as refusal:  # after CloudFormation may have done something to the function
        raise Refusal(f"{refusal}\n{verdict_on_live(aws, options)[1]}" if live else str(refusal)) from refusal
    print(f"done        {'the stack is deployed' if changed else 'nothing to change'}", flush=True)
    verdict, text = verdict_on_live(aws, options)
    if verdict == OK:  # CloudFormation does not look whether a permission is still there
        function = Function(aws, name)
        lacking = function.lacks_permission(pool)
        verdict, text = (PROBLEM, lacking) if lacking else (OK, text)
    if verdict != OK:
        raise Refusal(f"The stack is deployed, but {text}")
    print(f"checked     {text}")
    if pool.calling(function.arn):
        print(f"\nThe function is attached; how it is doing:\n  {options.say('status')}")
    else:
        print(f"\nNext, one report without a sign-in:\n  {options.say('smoke')} --user <a user of the pool>\n"
              f"and then every sign-in:\n  {options.say('attach')}")
    return 0


def refuse_leftovers(aws, name):
    """Names that the stack needs, and that something else has. CloudFormation would fail, and not always say why."""
    if aws.ask("lambda", "get-function-configuration", "--function-name", name, "--query", "FunctionArn"):
        raise Refusal(f"There is a function {name} already, which no stack of that name can take over; cargo lambda "
                      "deploy may have made it. Deploy with another --name, attach that one with --replace, and delete "
                      "the old one.")
    groups = [f"/aws/lambda/{name}", f"/aws/lambda/{name}-queue"]
    found = aws("logs", "describe-log-groups", "--log-group-name-prefix", groups[0])["logGroups"]
    left = [f"aws logs delete-log-group --region {aws.region} --log-group-name {group['logGroupName']}"
            for group in found if group["logGroupName"] in groups]
    left += [f"aws sqs delete-queue --region {aws.region} --queue-url {url}" for url in sqs.urls(aws, name)
             if url.rsplit("/", 1)[1] in (name, f"{name}-given-up")]
    if left:
        raise Refusal("\n".join([f"An earlier {name} left something whose name the stack needs. Delete it if nobody "
                                 "needs it, or take another --name:", *left]))


def trial(live, code, place, key, tags):
    """Runs the new zip as a function of its own, with the live one's role, memory and processor."""
    aws, name, like = live.aws, f"{live.name}-trial", live.configuration
    left = aws.ask("lambda", "get-function-configuration", "--function-name", name)
    if left and left.get("Description") != TRIAL:
        raise Refusal(f"There is a function {name} of somebody else's. Its name is needed to try the new zip.")
    try:
        if left:
            aws.ask("lambda", "delete-function", "--function-name", name)
        aws("lambda", "create-function", given={
            "FunctionName": name, "Description": TRIAL, "Runtime": "provided.al2023", "Handler": "bootstrap",
            "Role": like["role"], "MemorySize": like["memory"], "Timeout": like["timeout"],
            "Architectures": [code.architecture], "Code": {"S3Bucket": place, "S3Key": key},
            "Tags": tags})
        verdict, text = Function(aws, name).check()
    finally:
        with undisturbed():
            aws.ask("lambda", "delete-function", "--function-name", name)
    if verdict != OK:
        raise Refusal(f"The new zip was tried as {name}, and {text}\n{live.name} was not changed.")
    print(f"tried       the new zip, as {name}: it {text}", flush=True)


def ask_for_key(given, values, options):
    """UserHub's Admin API key, if one is needed: from the environment, from a terminal, or from standard input."""
    had_secret, key = values.get("AdminKeySecretArn"), os.environ.get("USERHUB_ADMIN_KEY")
    if given.get("AdminKeySecretArn", had_secret):
        given.update({"AdminKey": "none"} if given.get("AdminKeySecretArn") else {})
        return
    if values.get("AdminKey") and not (had_secret or options.new_key or key):
        return
    if not key:
        print("UserHub's Admin API key: in UserHub's Admin console under Developers, API keys; of the type Admin API, "
              "without expiration, with Integrations: Amazon Cognito.", file=sys.stderr)
        key = getpass.getpass("The Admin API key (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    given["AdminKey"] = key = key.strip()
    if not key or key == "none":
        raise Refusal("There is no Admin API key. It comes from a terminal, standard input, the environment variable "
                      "USERHUB_ADMIN_KEY, or a secret: --parameter AdminKeySecretArn=arn:aws:secretsmanager:….")
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", key):
        raise Refusal("The Admin API key consists of letters, digits and -._~+/=, without quotes, and is no JSON.")


def refuse_waiting(function, options):
    """Refuses to delete a queue that holds reports."""
    url = function and function.configuration["queue_url"]
    counts = [sqs.waiting(function.aws, url), sqs.waiting(function.aws, sqs.given_up(url))] if url else []
    if any(counts) and not options.discard_reports:
        raise Refusal(f"{counts[0] or 0} reports wait for UserHub and {counts[1] or 0} were given up; they would be "
                      f"lost. {options.say('status')} says why they wait. To lose them, say --discard-reports.")


def verdict_on_live(aws, options):
    """Whether the function works now, and if not, what restores sign-in for everybody who calls it."""
    try:
        function = Function(aws, options.name)
        verdict, text = function.check()
    except Missing as missing:
        return PROBLEM, f"{missing}\nIf sign-ins fail, this restores sign-in:\n{options.say('detach')}"
    if verdict != PROBLEM:
        return verdict, f"{function.name} {text}" if verdict == OK else text
    try:
        calling = callers(aws, function.arn)
    except Refusal as refusal:
        return verdict, (f"{text}\nWhich user pools call it is unknown: {refusal}\nIf sign-ins fail, this restores "
                         f"sign-in:\n{options.say('detach')}")
    if not calling:
        return verdict, f"{text}\nNo user pool calls it. Do not attach it."
    return verdict, "\n".join([f"{text}\nSign-ins fail in {', '.join(calling)}. This restores sign-in:",
                               *[options.say("detach", pool) for pool in calling]])
