"""Prints the IAM policy that a command needs. A test compares it with every call that the commands make.

permissions.json has the actions of each command; those of CloudFormation, by resource type; and those that
AWS grants for everything or not at all. What stands before / is a key of `resources`, if it is not the service's own.
"""

import json
import re
import sys

from aws_cli import Aws
from package import held

ACTIONS = json.loads(held("permissions.json"))
TEMPLATES = {"connect": "connection.yaml", "deploy": "template.yaml", "remove": "template.yaml"}
NOTES = {"connect": ["secretsmanager:GetSecretValue shows UserHub's access key, which connect tells you to enter."],
         "deploy": ["With AdminKeySecretArn it also takes secretsmanager:GetSecretValue on that secret.",
                    "With --bucket, name that bucket in place of the one here."]}


def resources(partition, account, region, pool, name):
    """What each group of actions is for, and under which conditions."""
    def here(service, *names):
        return [f"arn:{partition}:{service}:{region}:{account}:{name}" for name in names]

    def iam(*names):
        return [f"arn:{partition}:iam::{account}:{name}" for name in names]

    def via(service):
        return {"StringEquals": {"kms:ViaService": f"{service}.{region}.amazonaws.com"}}

    functions = [f"function:{name}{suffix}" for suffix in ["", "-queue", "-trial"]]
    bucket = f"arn:{partition}:s3:::userhub-signin-{account}-{region}"
    return {
        "cognito-idp": (here("cognito-idp", f"userpool/{pool}"), None),
        "every-pool": (here("cognito-idp", "userpool/*"), None),
        "cloudformation": (here("cloudformation", f"stack/{name}/*", f"stack/{name}-connection/*"), None),
        "lambda": (here("lambda", *functions), None), "mapping": (here("lambda", "event-source-mapping:*"), None),
        "logs": (here("logs", f"log-group:/aws/lambda/{name}:*", f"log-group:/aws/lambda/{name}-queue:*"), None),
        "log": (here("logs", *[f"log-group:/aws/lambda/{name}{end}" for end in ["", ":*", "-queue", "-queue:*"]]),
                None),
        "cloudwatch": (here("cloudwatch", f"alarm:{name}-*"), None),
        "sqs": (here("sqs", name, f"{name}-given-up"), None), "sns": (here("sns", "*"), None),
        "s3": ([bucket], None), "object": ([f"{bucket}/{name}/*"], None),
        "iam": (iam(f"role/{name}-*"), None), "user": (iam(f"user/{name}-connection-*"), None),
        "secretsmanager": (here("secretsmanager", "secret:ConnectionAccessKeySecret-*"), None),
        "pool-role": (iam("role/*"), {"StringEquals": {"iam:PassedToService": "cognito-idp.amazonaws.com"}}),
        "pool-key": (here("kms", "key/*"), via("cognito-idp")), "lambda-key": (here("kms", "key/*"), via("lambda")),
    }


def policy(command, partition, account, pool, name):
    actions = ACTIONS["commands"][command]
    if command in TEMPLATES:
        text = held(TEMPLATES[command]).decode()
        for kind in dict.fromkeys(re.findall(r"^    Type: (AWS::\S+)$", text, re.MULTILINE)):
            found = ACTIONS["cloudformation"][kind]
            actions += f" {found['delete']}" if command == "remove" else f" {found['change']} {found['delete']}"
    groups = {}
    for action in actions.split():
        group, _, plain = action.rpartition("/")
        group = "*" if action in ACTIONS["everywhere"].split() else group or plain.split(":")[0]
        groups.setdefault(group, set()).add(plain)
    found = {"*": ("*", None), **resources(partition, account, pool.split("_")[0], pool, name)}
    return {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": sorted(wanted), "Resource": found[group][0],
         **({"Condition": found[group][1]} if found[group][1] else {})} for group, wanted in sorted(groups.items())]}


def permissions(options):
    command = options.for_command
    partition, account = Aws(options.pool.split("_")[0]).identity()
    print(json.dumps(policy(command, partition, account, options.pool, options.name), indent=2))
    for note in NOTES.get(command, []):
        print(note, file=sys.stderr)
    return 0
