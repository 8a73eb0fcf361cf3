"""CloudFormation stacks: what they are, how they change, and why they did not."""

import contextlib
import re
import time

from aws_cli import undisturbed, wait
from errors import AwsError, Refusal

# How long a stack may take to be created, changed or deleted, in seconds.
STACK_LIMIT = 1800
# Stacks that can never be updated: those that have no resources, and those that may have some.
EMPTY = {"ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS"}
BROKEN = {"ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"}
# What somebody outside the stack uses: Cognito the function, UserHub the access key, the Portal the app client.
VITAL = {"Function", "Role", "CognitoPermission", "ConnectionIamUser", "ConnectionAccessKey", "PortalClient"}


def describe(aws, name):
    """The stack, or None."""
    try:
        return aws("cloudformation", "describe-stacks", "--stack-name", name)["Stacks"][0]
    except AwsError as error:
        if error.code == "ValidationError" and "does not exist" in (error.message or ""):
            return None
        raise


def values_of(stack):
    """The values of the stack's parameters. CloudFormation shows **** for a key."""
    return {each["ParameterKey"]: each.get("ParameterValue") for each in (stack or {}).get("Parameters", [])}


def outputs_of(stack):
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def tags_of(stack, options):
    """What everything in a stack is tagged with."""
    return {**{tag["Key"]: tag["Value"] for tag in (stack or {}).get("Tags", [])}, **options.tags}


def ours(aws, name, parameters, pool_id, broken_too=False):
    """The stack with these parameters, if it may be changed for this pool, or None."""
    found = describe(aws, name)
    if found:
        refuse_foreign(found, parameters)
        refuse_busy(found, aws.region, broken_too)
        refuse_other_pool(found, pool_id)
    return found


def refuse_foreign(stack, parameters):
    name, parent = stack["StackName"], stack.get("ParentId")
    if stack["StackStatus"] != "REVIEW_IN_PROGRESS" and not parameters <= values_of(stack).keys():
        raise Refusal(f"The stack {name} is not this program's, and is left alone: say --name for another name.")
    if parent:
        raise Refusal(f"The stack {name} is part of {parent.split('/')[1]}: deploy and remove it with that.")


def refuse_busy(stack, region, broken_too):
    """Refuses what CloudFormation would refuse later and less clearly."""
    status, name = stack["StackStatus"], stack["StackName"]
    if status == "UPDATE_ROLLBACK_FAILED":
        raise Refusal(f"The stack {name} is {status}, and cannot be updated until this has worked:\n"
                      f"aws cloudformation continue-update-rollback --region {region} --stack-name {name}")
    if status in BROKEN and not broken_too:
        raise Refusal(f"The stack {name} is {status}, and cannot be changed any more: remove it, then deploy again.")
    if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
        raise Refusal(f"The stack {name} is {status}: wait until that has ended.")


def refuse_other_pool(stack, pool_id):
    wanted = values_of(stack).get("UserPoolId")
    if wanted not in (None, pool_id):
        raise Refusal(f"The stack {stack['StackName']} is for the user pool {wanted}, as UserHub's connection is. For "
                      f"{pool_id}, take another name with --name.")


def refuse_loss(changes, force):
    """Refuses changes that would take something away that somebody uses."""
    lost = [f"  {change['LogicalResourceId']} ({change['ResourceType']})" for change in changes
            if change["LogicalResourceId"] in VITAL and "True" in (change.get("Replacement"), str(
                change["Action"] == "Remove"))]
    if lost and not force:
        raise Refusal("\n".join(["Nothing was changed, because Cognito, UserHub or its Portal still uses what would be "
                                 "deleted or replaced:", *lost, "If that is what you want, say --force."]))


def change(aws, name, template, given, options):
    """Creates the stack, or changes it. What is not given keeps its value. Whether there was anything to do."""
    stack = describe(aws, name)
    if stack and stack["StackStatus"] in EMPTY:
        print(f"deleting    what an earlier attempt left of the stack {name} ({stack['StackStatus']})", flush=True)
        delete(aws, stack)
        stack = None
    section = re.search(r"^Parameters:\n((?:[ #].*\n|\n)*)", template, re.MULTILINE)[1]
    kept = set(re.findall(r"^  (\w+):$", section, re.MULTILINE)) & values_of(stack).keys() - given.keys()
    change_set, executed = f"userhub-signin-{time.time_ns()}", False
    names = ["--stack-name", name, "--change-set-name", change_set]
    try:
        aws("cloudformation", "create-change-set", given={
            "StackName": name, "ChangeSetName": change_set, "ChangeSetType": "UPDATE" if stack else "CREATE",
            "TemplateBody": re.sub(r"(?m)^ *#.*\n", "", template),  # which may have 51,200 bytes
            "Capabilities": ["CAPABILITY_IAM"],
            "Parameters": [*({"ParameterKey": key, "ParameterValue": value} for key, value in given.items()),
                           *({"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept))],
            **({"Tags": [{"Key": key, "Value": value} for key, value in tags_of(stack, options).items()]}
               if options.tags else {})})
        found = wait(STACK_LIMIT, "computing the changes", lambda: planned(aws, names))
        reason = found.get("StatusReason") or ""
        if found["Status"] == "FAILED" and re.search("didn't contain changes|No updates are to be", reason):
            return False
        if found["Status"] == "FAILED":
            raise Refusal("\n".join([f"CloudFormation refused, and nothing was changed: {reason}",
                                     *early_validation(aws, found)]))
        refuse_loss([each["ResourceChange"] for each in found.get("Changes", [])], options.force)
        aws("cloudformation", "execute-change-set", *names)
        executed = True
    finally:
        if not executed:
            with undisturbed(), contextlib.suppress(Refusal):  # a new stack is an empty one for the change set
                aws("cloudformation", *(["delete-change-set", *names] if stack else ["delete-stack", *names[:2]]))
    after = wait(STACK_LIMIT, f"{'changing' if stack else 'creating'} the stack {name}",
                 lambda: settled(aws, name, stack or {}), longest=4)
    if after["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise Refusal("\n".join([f"CloudFormation did not deploy the stack {name}: it is {after['StackStatus']}.",
                                 *failures(aws, name)]))
    return True


def planned(aws, names):
    """The change set, once CloudFormation has computed it."""
    found = aws("cloudformation", "describe-change-set", *names)
    return found if found["Status"] in ("CREATE_COMPLETE", "FAILED") else None


def settled(aws, name, before):
    """The stack, once what was begun has ended. At first it may look as it did before."""
    stack = describe(aws, name)
    same = all(stack.get(field) == before.get(field) for field in ["StackStatus", "LastUpdatedTime"])
    return None if same or stack["StackStatus"].endswith("_IN_PROGRESS") else stack


def failures(aws, name):
    """What failed in the last operation on a stack, and why, in the order of events."""
    lines = []
    for event in aws("cloudformation", "describe-stack-events", "--stack-name", name, "--max-items", "200")[
            "StackEvents"]:  # newest first
        reason = event.get("ResourceStatusReason", "")
        if reason == "User Initiated":
            break
        if "FAILED" in event["ResourceStatus"] and "cancelled" not in reason:
            lines.insert(0, f"  {event['LogicalResourceId']} ({event.get('PhysicalResourceId') or '-'}): {reason}")
    return lines


def early_validation(aws, change_set):
    """Names that something else has already. Only newer versions of the CLI can ask for them."""
    with contextlib.suppress(Refusal, KeyError):
        events = aws("cloudformation", "describe-events", "--change-set-name", change_set["ChangeSetId"])
        return [f"  {event.get('LogicalResourceId')}: {event['ValidationStatusReason']}"
                for event in events["OperationEvents"] if event.get("ValidationStatus") == "FAILED"]
    return []


def delete(aws, stack):
    """Deletes the stack, and waits for that."""
    name = stack["StackName"]
    aws("cloudformation", "delete-stack", "--stack-name", name)

    def gone():
        found = describe(aws, name)
        return True if found is None else found if found["StackStatus"] == "DELETE_FAILED" else None

    time.sleep(5 if stack["StackStatus"] == "DELETE_FAILED" else 0)  # at first it may look as it did before
    if wait(STACK_LIMIT, f"deleting the stack {name}", gone, longest=4) is not True:
        raise Refusal("\n".join([f"The stack {name} could not be deleted:", *failures(aws, name)]))


def protect(aws, stack, on):
    aws("cloudformation", "update-termination-protection", "--stack-name", stack["StackName"],
        f"--{'' if on else 'no-'}enable-termination-protection")
