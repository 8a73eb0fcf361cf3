"""Prints the IAM policy that a command needs. A test compares it with every call that the commands make."""

import json
import re
import sys

from aws_cli import Aws
from package import held

POOL = "cognito-idp:DescribeUserPool"
EVERY_POOL = "cognito-idp:ListUserPools every-pool/cognito-idp:DescribeUserPool"
CHANGES = ("cloudformation:DescribeStacks cloudformation:CreateChangeSet cloudformation:DescribeChangeSet "
           "cloudformation:ExecuteChangeSet cloudformation:DeleteChangeSet cloudformation:DeleteStack "
           "cloudformation:DescribeStackEvents cloudformation:DescribeEvents")
TRIGGER = (f"{POOL} {EVERY_POOL} cognito-idp:GetUserPoolMfaConfig cognito-idp:UpdateUserPool "
           "pool-role/iam:PassRole pool-key/kms:CreateGrant "
           "lambda:GetFunctionConfiguration lambda:ListTags cloudformation:DescribeStacks "
           "cloudformation:UpdateTerminationProtection")
# What each command calls itself. What stands before / is the key of RESOURCES, if it is not the service's own.
COMMANDS = {
    "connect": f"{POOL} cognito-idp:DescribeUserPoolDomain {CHANGES}",
    "deploy": f"{POOL} {EVERY_POOL} {CHANGES} lambda:GetFunctionConfiguration lambda:CreateFunction "
              "lambda:DeleteFunction lambda:InvokeFunction lambda:GetPolicy iam:PassRole logs:DescribeLogGroups "
              "sqs:ListQueues sqs:GetQueueAttributes s3:ListBucket s3:CreateBucket s3:PutBucketPublicAccessBlock "
              "s3:PutEncryptionConfiguration object/s3:PutObject object/s3:GetObject",
    "attach": f"{TRIGGER} lambda:GetPolicy lambda:InvokeFunction lambda:TagResource lambda:GetFunctionConcurrency",
    "status": f"{POOL} lambda:GetFunctionConfiguration lambda:GetPolicy lambda:InvokeFunction lambda:ListTags "
              "lambda:GetFunctionConcurrency lambda:GetAccountSettings lambda:ListEventSourceMappings "
              "cloudformation:DescribeStacks logs:DescribeLogGroups logs:StartQuery logs:GetQueryResults "
              "cloudwatch:GetMetricData cloudwatch:DescribeAlarms sns:GetTopicAttributes sqs:GetQueueAttributes",
    "smoke": f"{POOL} cognito-idp:AdminGetUser lambda:GetFunctionConfiguration lambda:InvokeFunction",
    "detach": f"{TRIGGER} lambda:UntagResource",
    "remove": f"{POOL} {EVERY_POOL} lambda:GetFunctionConfiguration lambda:ListTags lambda:UntagResource "
              "sqs:GetQueueAttributes cloudformation:DescribeStacks cloudformation:DescribeStackResources "
              "cloudformation:DescribeStackEvents cloudformation:DeleteStack "
              "cloudformation:UpdateTerminationProtection",
}
# What CloudFormation does with the caller's permissions: to create, read and change a resource; to delete it.
CLOUDFORMATION = {
    "AWS::CloudWatch::Alarm": (
        "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms cloudwatch:TagResource cloudwatch:UntagResource "
        "cloudwatch:ListTagsForResource", "cloudwatch:DeleteAlarms cloudwatch:DescribeAlarms"),
    "AWS::Cognito::ManagedLoginBranding": (
        "cognito-idp:CreateManagedLoginBranding cognito-idp:DescribeManagedLoginBranding "
        "cognito-idp:DescribeManagedLoginBrandingByClient cognito-idp:UpdateManagedLoginBranding",
        "cognito-idp:DeleteManagedLoginBranding"),
    "AWS::Cognito::UserPoolClient": (
        "cognito-idp:CreateUserPoolClient cognito-idp:DescribeUserPoolClient cognito-idp:ListUserPoolClientSecrets "
        "cognito-idp:UpdateUserPoolClient", "cognito-idp:DeleteUserPoolClient"),
    "AWS::IAM::AccessKey": ("user/iam:CreateAccessKey user/iam:ListAccessKeys user/iam:UpdateAccessKey",
                            "user/iam:DeleteAccessKey"),
    "AWS::IAM::Policy": ("iam:GetRolePolicy iam:PutRolePolicy iam:DeleteRolePolicy", "iam:DeleteRolePolicy"),
    "AWS::IAM::Role": (
        "iam:CreateRole iam:GetRole iam:PutRolePolicy iam:GetRolePolicy iam:DeleteRolePolicy iam:TagRole iam:UntagRole "
        "iam:ListRolePolicies iam:ListAttachedRolePolicies iam:UpdateRole iam:UpdateRoleDescription "
        "iam:UpdateAssumeRolePolicy iam:PutRolePermissionsBoundary iam:DeleteRolePermissionsBoundary",
        "iam:DeleteRole iam:DeleteRolePolicy iam:GetRole iam:ListAttachedRolePolicies iam:ListRolePolicies "
        "iam:TagRole iam:UntagRole"),
    "AWS::IAM::User": (
        "user/iam:CreateUser user/iam:GetUser user/iam:UpdateUser user/iam:PutUserPolicy user/iam:GetUserPolicy "
        "user/iam:DeleteUserPolicy user/iam:ListUserPolicies user/iam:ListAttachedUserPolicies "
        "user/iam:ListGroupsForUser user/iam:GetLoginProfile user/iam:TagUser user/iam:UntagUser user/iam:ListUserTags "
        "user/iam:PutUserPermissionsBoundary user/iam:DeleteUserPermissionsBoundary",
        "user/iam:DeleteUser user/iam:DeleteUserPolicy user/iam:DeleteAccessKey user/iam:ListAccessKeys "
        "user/iam:GetUser user/iam:GetUserPolicy user/iam:ListGroupsForUser user/iam:ListAttachedUserPolicies "
        "user/iam:ListUserPolicies user/iam:GetLoginProfile"),
    "AWS::Lambda::EventSourceMapping": (
        "mapping/lambda:CreateEventSourceMapping mapping/lambda:GetEventSourceMapping "
        "mapping/lambda:UpdateEventSourceMapping mapping/lambda:TagResource mapping/lambda:UntagResource "
        "mapping/lambda:ListTags", "mapping/lambda:DeleteEventSourceMapping mapping/lambda:GetEventSourceMapping"),
    "AWS::Lambda::Function": (
        "lambda:CreateFunction lambda:GetFunction lambda:UpdateFunctionConfiguration lambda:UpdateFunctionCode "
        "lambda:TagResource lambda:UntagResource lambda:GetFunctionCodeSigningConfig "
        "lambda:GetFunctionRecursionConfig lambda:GetRuntimeManagementConfig iam:PassRole object/s3:GetObject "
        "lambda-key/kms:CreateGrant lambda-key/kms:Decrypt lambda-key/kms:DescribeKey lambda-key/kms:Encrypt "
        "lambda-key/kms:GenerateDataKey", "lambda:DeleteFunction lambda:GetFunction"),
    "AWS::Lambda::Permission": ("lambda:AddPermission lambda:GetPolicy", "lambda:RemovePermission"),
    "AWS::Logs::LogGroup": (
        "logs:DescribeLogGroups log/logs:CreateLogGroup log/logs:PutRetentionPolicy log/logs:DeleteRetentionPolicy "
        "log/logs:TagResource log/logs:UntagResource log/logs:ListTagsForResource",
        "logs:DescribeLogGroups log/logs:DeleteLogGroup"),
    "AWS::Logs::MetricFilter": ("log/logs:PutMetricFilter log/logs:DescribeMetricFilters",
                                "log/logs:DeleteMetricFilter"),
    "AWS::Logs::QueryDefinition": ("logs:PutQueryDefinition logs:DescribeQueryDefinitions",
                                   "logs:DeleteQueryDefinition"),
    "AWS::SQS::Queue": (
        "sqs:CreateQueue sqs:GetQueueUrl sqs:GetQueueAttributes sqs:SetQueueAttributes sqs:ListQueueTags sqs:TagQueue "
        "sqs:UntagQueue", "sqs:DeleteQueue sqs:GetQueueAttributes"),
    "AWS::SQS::QueuePolicy": ("sqs:SetQueueAttributes", "sqs:SetQueueAttributes"),
    "AWS::SecretsManager::Secret": (
        "secretsmanager:CreateSecret secretsmanager:DescribeSecret secretsmanager:TagResource "
        "secretsmanager:UntagResource secretsmanager:UpdateSecret secretsmanager:GetSecretValue",
        "secretsmanager:DeleteSecret secretsmanager:DescribeSecret"),
}
TEMPLATES = {"connect": "connection.yaml", "deploy": "template.yaml", "remove": "template.yaml"}
# Actions that AWS grants for everything or not at all.
EVERYWHERE = {"cognito-idp:ListUserPools", "cognito-idp:DescribeUserPoolDomain", "lambda:GetAccountSettings",
              "lambda:ListEventSourceMappings", "logs:DescribeLogGroups", "logs:GetQueryResults", "sqs:ListQueues",
              "logs:PutQueryDefinition", "logs:DescribeQueryDefinitions", "logs:DeleteQueryDefinition",
              "cloudwatch:GetMetricData", "mapping/lambda:CreateEventSourceMapping", "cloudformation:DescribeEvents"}


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
    actions = COMMANDS[command].split()
    if command in TEMPLATES:
        types = re.findall(r"^    Type: (AWS::\S+)$", held(TEMPLATES[command]).decode(), re.MULTILINE)
        for kind in dict.fromkeys(types):
            change, delete = CLOUDFORMATION[kind]
            actions += (delete if command == "remove" else f"{change} {delete}").split()
    groups = {}
    for action in dict.fromkeys(actions):
        group, _, plain = action.rpartition("/")
        groups.setdefault("*" if action in EVERYWHERE else group or plain.split(":")[0], set()).add(plain)
    found = resources(partition, account, pool.split("_")[0], pool, name)
    statements = []
    for group, wanted in sorted(groups.items()):
        arns, condition = found.get(group, ("*", None))
        statements.append({"Effect": "Allow", "Action": sorted(wanted), "Resource": arns,
                           **({"Condition": condition} if condition else {})})
    return {"Version": "2012-10-17", "Statement": statements}


def permissions(options):
    command = options.for_command
    partition, account = Aws(options.pool.split("_")[0]).identity()
    print(json.dumps(policy(command, partition, account, options.pool, options.name), indent=2))
    notes = {"connect": ["secretsmanager:GetSecretValue shows UserHub's access key, which connect tells you to enter."],
             "deploy": ["With AdminKeySecretArn it also takes secretsmanager:GetSecretValue on that secret.",
                        "With --bucket, name that bucket in place of the one here."]}
    for note in notes.get(command, []):
        print(note, file=sys.stderr)
    return 0
