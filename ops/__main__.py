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

PROGRAM = shlex.join(["python3", sys.argv[0]])
POOL = "eu-west-1_AbCd12345"
COMMANDS = {  # function, summary, examples
    "connect": (connect.connect, "make what UserHub's connection needs: an access key, the Portal's app client",
                "", "--portal-domain portal.example.com"),
    "deploy": (deploy.deploy, "deploy the function, or change it; asks for UserHub's Admin API key",
               "--connection-id conn_AbCd12345", "--parameter AlarmTopicArn=arn:aws:sns:…", "--new-key"),
    "attach": (trigger.attach, "let the user pool call the function at every sign-in",
               "--dry-run", "--triggers PostAuthentication PostConfirmation"),
    "status": (status.status, "say whether sign-ins and reports work; exit code 0 if both do", "", "--json"),
    "smoke": (smoke.smoke, "report one user without a sign-in", "--user ada@example.com", "--user -"),
    "detach": (trigger.detach, "take the function off the user pool, which restores sign-in if it is broken", ""),
    "remove": (remove.remove, "delete the function, unless a user pool calls it or reports wait", ""),
    "permissions": (permissions.permissions, "print the IAM policy that another command needs", ""),
}
FLAG = {"action": "store_true"}
PAIRS = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
OPTIONS = {  # which commands, meaning, how
    "--connection-id": ("deploy", "UserHub's id of its Amazon Cognito connection", {"metavar": "conn_…"}),
    "--new-key": ("deploy", "ask for another Admin API key", FLAG),
    "--zip": ("deploy", "a zip with the function, in place of the one in this program", {}),
    "--architecture": ("deploy", "processor", {"choices": ["x86_64", "arm64"]}),
    "--bucket": ("deploy", "a bucket of yours for the zip; by default one is made", {}),
    "--portal-domain": ("connect", "domain of your UserHub Portal, for its app client", {}),
    "--access": ("connect", "what UserHub may do with the pool's users: manage (default) includes deleting; or read",
                 {"choices": ["manage", "read"]}),
    "--parameter": ("connect deploy", "any other parameter of the template; can be repeated", PAIRS),
    "--tag": ("connect deploy", "a tag of all that is made; can be repeated", PAIRS),
    "--triggers": ("attach detach", f"which triggers: {', '.join(TRIGGERS)}; attach sets the first by default",
                   {"nargs": "+", "choices": TRIGGERS, "metavar": "TRIGGER"}),
    "--replace": ("attach", "take the place of another function", FLAG),
    "--dry-run": ("attach detach", "only show what would change", FLAG),
    "--user": ("smoke", "a user of the pool; - asks, so that no list of processes shows the name", {"required": True}),
    "--json": ("status", "print it as JSON", FLAG),
    "--discard-reports": ("deploy remove", "lose the reports that wait", FLAG),
    "--force": ("connect deploy detach remove", "go on where the refusal names this option", FLAG),
}


def arguments():
    how = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, **how)
    held = ", ".join(package.held_zips()) or "none; name one with --zip"
    parser.add_argument("--version", action="version", version=f"userhub-signin {package.version()} (zips: {held})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (_, summary, *examples) in COMMANDS.items():
        other = " deploy" if command == "permissions" else ""
        lines = [f"  {PROGRAM} {command}{other} {POOL} {example}".rstrip() for example in examples]
        sub = commands.add_parser(command, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
                                  epilog="\n".join(["examples:", *lines]), **how)
        if other:
            sub.add_argument("for_command", metavar="COMMAND", choices=[*COMMANDS][:-1])
        sub.add_argument("pool", metavar="USER_POOL", help=f"the user pool's id, e.g. {POOL}")
        sub.add_argument("--name", default="userhub-signin", help="name of the function and of its stack (default: "
                         "userhub-signin)")
        for option, (takers, text, kind) in OPTIONS.items():
            if command in takers.split():
                sub.add_argument(option, help=text, **kind)
    options = parser.parse_args()
    # Region and id, as in the API's reference for UserPoolId.
    for text, pattern, example in [(options.pool, r"[a-z]{2,}(-[a-z]+)+-\d+_[0-9A-Za-z]+", POOL),
                                   (options.name, "[A-Za-z0-9_-]{1,58}", "userhub-signin")]:
        if not re.fullmatch(pattern, text):
            parser.error(f"{text!r} is not of the form {example}")
    for option in ["parameter", "tag"]:
        pairs = [text.partition("=") for text in getattr(options, option, [])]
        if wrong := [name for name, separator, _ in pairs if not separator]:
            parser.error(f"--{option} {wrong[0]} is not NAME=VALUE")
        setattr(options, f"{option}s", {name: value for name, _, value in pairs})
    named = "" if options.name == "userhub-signin" else f" --name {options.name}"
    # What somebody has to type for a command, for this pool or another.
    options.say = lambda command, pool=options.pool: f"{PROGRAM} {command} {pool}{named}"
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
        print(f"interrupted; {options.say('status')} says how things are, and the same command can be run again",
              file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
