"""`make publish`: puts the function into the AWS Serverless Application Repository, for the owner of a public copy.

The Python of .tools runs it, because it needs SAM.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from samtranslator.yaml_helper import yaml_parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "ops"))
from aws_cli import Refusal  # noqa: E402
from package import Package  # noqa: E402

# Of the template's types, those in the repository's list of February 2021, the last one that is public as a whole
# ("List of Supported AWS Resources" in its Developer Guide). It refuses a template with any other type.
SUPPORTED = {
    "AWS::CloudWatch::Alarm", "AWS::Cognito::UserPoolClient", "AWS::IAM::Policy", "AWS::IAM::Role",
    "AWS::Lambda::Permission", "AWS::Logs::LogGroup", "AWS::Logs::MetricFilter", "AWS::Serverless::Function",
}


def names(value):
    """The names of all resources, parameters and conditions that a part of a template uses."""
    if isinstance(value, list):
        return set().union(*map(names, value))
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, part in value.items():
        if key in ("Ref", "Condition") and isinstance(part, str):
            found.add(part)
        elif key == "Fn::GetAtt":
            found.add(part[0] if isinstance(part, list) else part.split(".")[0])
        elif key == "Fn::Sub":
            found |= set(re.findall(r"\$\{([\w:]+)", json.dumps(part)))
        else:
            found |= names(part) | ({part[0]} if key == "Fn::If" else set())
    return {name for name in found if not name.startswith("AWS::")}


def publishable(template):
    """The template without the resources that the repository does not support, and without all that is only theirs."""
    resources = {name: one for name, one in template["Resources"].items() if one["Type"] in SUPPORTED}
    gone = set(template["Resources"]) - set(resources)
    outputs = {name: one for name, one in template["Outputs"].items() if not names(one) & gone}
    used = names([resources, outputs])
    while more := names([template["Conditions"][name] for name in used & set(template["Conditions"])]) - used:
        used |= more
    parameters = {name: one for name, one in template["Parameters"].items() if name in used}
    rules = {}
    for name, rule in template["Rules"].items():
        assertions = [one for one in rule["Assertions"] if names(one) <= set(parameters)]
        if assertions and names(rule.get("RuleCondition")) <= set(parameters):
            rules[name] = {**rule, "Assertions": assertions}
    groups = [{**group, "Parameters": [name for name in group["Parameters"] if name in parameters]}
              for group in template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]]
    return {
        **template, "Resources": resources, "Outputs": outputs, "Parameters": parameters, "Rules": rules,
        "Conditions": {name: one for name, one in template["Conditions"].items() if name in used},
        "Metadata": {**template["Metadata"], "AWS::CloudFormation::Interface": {"ParameterGroups": groups}},
    }


def application(package, source_url):
    """The template to publish, with local paths, which `sam package` uploads."""
    template = publishable(yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8")))
    metadata = template["Metadata"]["AWS::ServerlessRepo::Application"]
    metadata |= {"SourceCodeUrl": source_url, "HomePageUrl": source_url}
    # Not in template.yaml: where that is nested in another template, these files are not beside it.
    metadata |= {"LicenseUrl": str(ROOT / "LICENSE-MIT"), "ReadmeUrl": str(ROOT / "docs/serverless-application.md")}
    template["Resources"]["Function"]["Properties"]["CodeUri"] = str(package.path.resolve())
    template["Parameters"]["Architecture"] |= {
        "Default": package.architecture, "AllowedValues": [package.architecture]}
    return template


def main():
    parser = argparse.ArgumentParser(prog="make publish")
    options = ["zip", "bucket", "source_url", "region"]
    for option in options:
        parser.add_argument(f"--{option.replace('_', '-')}")
    given = parser.parse_args()
    if missing := [option.upper() for option in options if not getattr(given, option)]:
        raise Refusal(f"{', '.join(missing)} is missing: say for example make publish ZIP=userhub-signin-x86_64.zip "
                      "BUCKET=my-bucket REGION=us-east-1 SOURCE_URL=https://github.com/…/userhub-signin")
    template = application(Package(given.zip), given.source_url)
    with tempfile.TemporaryDirectory() as folder:
        source, packaged = pathlib.Path(folder, "template.json"), pathlib.Path(folder, "packaged.yaml")
        source.write_text(json.dumps(template), encoding="utf-8")
        for command in [
            ["package", "--template-file", source, "--s3-bucket", given.bucket, "--output-template-file", packaged],
            # Without this option, a version that exists already would be ignored.
            ["publish", "--template", packaged, "--fail-on-same-version"],
        ]:
            if subprocess.run(["sam", *command, "--region", given.region], check=False).returncode != 0:
                raise Refusal(f"sam {command[0]} failed: see above. docs/develop.md says what publishing needs.")


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
