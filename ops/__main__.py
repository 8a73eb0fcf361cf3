"""Reports an Amazon Cognito user pool's sign-ins to UserHub: sets that up in AWS, says how it is doing, takes it away.

It needs Python 3.9 and the AWS CLI, version 1 or 2, with credentials for the account of the user pool.
"""

import argparse
import os
import re
import shlex
import signal
import sys

import connect
import deploy
import package
import permissions
import remove
import smoke
import status
import trigger
from errors import Refusal
from user_pool import TRIGGERS

COMMANDS = {
    "connect": (connect.connect, "make what UserHub's connection needs: an access key, the Portal's app client"),
    "deploy": (deploy.deploy, "deploy the function, or change it; asks for UserHub's Admin API key"),
    "attach": (trigger.attach, "let the user pool call the function at every sign-in"),
    "status": (status.status, "say whether sign-ins and reports work; exit code 0 if both do"),
    "smoke": (smoke.smoke, "report one user without a sign-in"),
    "detach": (trigger.detach, "take the function off the user pool, which restores sign-in if it is broken"),
    "remove": (remove.remove, "delete the function, unless a user pool calls it or reports wait"),
    "permissions": (permissions.permissions, "print the IAM policy that a command needs"),
}
POOL = "eu-west-1_AbCd12345"
EXAMPLES = {
    "connect": ["{pool}", "{pool} --portal-domain portal.example.com"],
    "deploy": ["{pool} --connection-id conn_AbCd12345", "{pool} --parameter AlarmTopicArn=arn:aws:sns:…",
               "{pool} --new-key"],
    "attach": ["{pool} --dry-run", "{pool} --triggers PostAuthentication PostConfirmation"],
    "status": ["{pool}", "{pool} --json"],
    "smoke": ["{pool} --user ada@example.com", "{pool} --user -"],
    "detach": ["{pool}"],
    "remove": ["{pool}"],
    "permissions": ["deploy {pool}"],
}
OPTIONS = {
    "--connection-id": (["deploy"], "UserHub's id of its Amazon Cognito connection, conn_…"),
    "--new-key": (["deploy"], "ask for another Admin API key"),
    "--zip": (["deploy"], "a zip with the function, in place of the one in this program"),
    "--architecture": (["deploy"], "processor: x86_64 or arm64"),
    "--bucket": (["deploy"], "a bucket of yours for the zip; by default one is made"),
    "--portal-domain": (["connect"], "domain of your UserHub Portal, for its app client"),
    "--portal-identity-providers": (["connect"], "identity providers that the Portal offers, separated by commas"),
    "--access": (["connect"], "what UserHub may do with the pool's users: manage (default) includes deleting; or read"),
    "--parameter": (["connect", "deploy"], "any other parameter of the template; can be repeated"),
    "--tag": (["connect", "deploy"], "a tag of all that is made; can be repeated"),
    "--triggers": (["attach", "detach"], f"which triggers: {', '.join(TRIGGERS)}; attach sets the first by default"),
    "--replace": (["attach"], "take the place of another function"),
    "--dry-run": (["attach", "detach"], "only show what would change"),
    "--user": (["smoke"], "a user of the pool; - asks, so that no list of processes shows the name"),
    "--json": (["status"], "print it as JSON"),
    "--discard-reports": (["deploy", "remove"], "lose the reports that wait"),
    "--force": (["connect", "deploy", "detach", "remove"], "go on where the refusal names this option"),
}
HOW = {
    "--connection-id": {"metavar": "ID"}, "--architecture": {"choices": ["x86_64", "arm64"]},
    "--access": {"choices": ["manage", "read"]}, "--user": {"required": True, "metavar": "NAME"},
    "--triggers": {"nargs": "+", "choices": TRIGGERS, "metavar": "TRIGGER"},
    **dict.fromkeys(["--parameter", "--tag"], {"action": "append", "default": [], "metavar": "NAME=VALUE"}),
    **dict.fromkeys(["--new-key", "--replace", "--dry-run", "--json", "--discard-reports", "--force"],
                    {"action": "store_true"}),
}


def program():
    """What somebody types to start this."""
    return shlex.join(["python3", sys.argv[0]])


def matching(pattern, example):
    def check(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {example}")
        return text

    return check


def arguments():
    parser = argparse.ArgumentParser(prog=program(), description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    held = ", ".join(package.held_zips()) or "none; name one with --zip"
    parser.add_argument("--version", action="version", version=f"userhub-signin {package.version()} (zips: {held})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (_, summary) in COMMANDS.items():
        examples = "\n".join(f"  {program()} {command} {example.format(pool=POOL)}" for example in EXAMPLES[command])
        sub = commands.add_parser(command, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
                                  epilog=f"examples:\n{examples}", allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        if command == "permissions":
            sub.add_argument("for_command", metavar="COMMAND", choices=[*COMMANDS][:-1])
        # Region and id, as in the API's reference for UserPoolId.
        sub.add_argument("pool", metavar="USER_POOL", type=matching(r"[a-z]{2,}(-[a-z]+)+-\d+_[0-9A-Za-z]+", POOL),
                         help=f"the user pool's id, e.g. {POOL}")
        sub.add_argument("--name", default="userhub-signin", type=matching("[A-Za-z0-9_-]{1,58}", "userhub-signin"),
                         help="name of the function and of its stack (default: userhub-signin)")
        for option, (takers, text) in OPTIONS.items():
            if command in takers:
                sub.add_argument(option, help=text, **HOW.get(option, {}))
    options = parser.parse_args()
    for option in ["parameter", "tag"]:
        pairs = [text.partition("=") for text in getattr(options, option, [])]
        if wrong := [name for name, separator, _ in pairs if not separator]:
            parser.error(f"--{option} {wrong[0]} is not NAME=VALUE")
        setattr(options, f"{option}s", {name: value for name, _, value in pairs})
    options.program = program()
    options.name_option = "" if options.name == "userhub-signin" else f" --name {options.name}"
    return options


def main():
    os.umask(0o077)  # what is saved describes how people sign in
    for number in [signal.SIGTERM, signal.SIGHUP]:  # as Ctrl-C, so that no temporary file stays
        signal.signal(number, signal.default_int_handler)
    options = arguments()
    try:
        return COMMANDS[options.command][0](options)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {options.program} status {options.pool}{options.name_option} says how things are, and the "
              "same command can be run again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
