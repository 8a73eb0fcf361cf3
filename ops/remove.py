"""Deletes the function's stack, unless somebody still needs it."""

import stack
import trigger
from aws_cli import Aws
from deploy import PARAMETERS, refuse_waiting
from errors import Missing, Refusal
from function import Function
from user_pool import callers

SHARED = ("AWS::IAM::AccessKey", "AWS::Cognito::UserPoolClient")  # in stacks of version 0.1.0


def remove(options):
    aws, name = Aws(options.pool.split("_")[0]), options.name
    found = stack.ours(aws, name, PARAMETERS, options.pool, broken_too=True)
    if found is None:
        raise Refusal(f"There is no stack {name} in {aws.region}: say --name for another name.")
    # By name too: a stack whose function was renamed keeps the one that the pool still calls.
    arns = {aws.arn("lambda", f"function:{name}"), stack.outputs_of(found).get("FunctionArn")} - {None}
    if calling := sorted({pool for arn in arns for pool in callers(aws, arn)}):
        raise Refusal("\n".join([f"{', '.join(calling)} calls the function, so every sign-in there would fail. First:",
                                 *[options.say("detach", pool) for pool in calling]]))
    try:
        function = Function(aws, name)
        refuse_waiting(function, options)
        attached = trigger.PROTECTED in function.tags()
    except Missing:
        attached = False
    resources = aws("cloudformation", "describe-stack-resources", "--stack-name", name)["StackResources"]
    shared = [each["LogicalResourceId"] for each in resources if each["ResourceType"] in SHARED]
    if shared and not options.force:
        raise Refusal(f"The stack has {' and '.join(shared)}, which UserHub's connection and Portal use. If they are "
                      "not needed any more, say --force.")
    if attached and found.get("EnableTerminationProtection"):
        trigger.lift(function, found)
    elif found.get("EnableTerminationProtection"):
        raise Refusal(f"Somebody else has protected the stack {name} from deletion. If that is meant for this: aws "
                      f"cloudformation update-termination-protection --region {aws.region} --stack-name {name} "
                      "--no-enable-termination-protection")
    print(f"deleting    the stack {name} in {aws.region}, with its log", flush=True)
    stack.delete(aws, found)
    print(f"done        what is left: the zips in the bucket userhub-signin-{aws.identity()[1]}-{aws.region}, the "
          f"stack {name}-connection if connect made it, and in UserHub the connection and the API key")
    return 0
