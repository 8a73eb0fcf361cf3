"""The parameters of template.yaml. Python's standard library has no YAML, and needs none for this part of this file."""

import json
import re

from aws_cli import Refusal


class Parameter:
    """One parameter, with what CloudFormation would check."""

    def __init__(self, name, text):
        self.name = name
        field = dict(re.findall(r"^    (\w+): *(.+(?:\n      .*)*)", text, re.MULTILINE))
        self.default = field.get("Default")
        self.pattern = field.get("AllowedPattern")
        self.constraint = unfold(field.get("ConstraintDescription", ""))
        self.is_list = field["Type"] == "CommaDelimitedList"
        inline = re.search(r"^    AllowedValues: \[(.*)\]", text, re.MULTILINE)
        listed = re.findall(r"^      - (.+)", text, re.MULTILINE) if "\n    AllowedValues:\n" in text else []
        self.values = [unquote(value) for value in (inline[1].split(", ") if inline else listed)]
        self.minimum = field.get("MinValue")

    def problem(self, value):
        """What is wrong with a value, or None."""
        if self.values and value not in self.values:
            return f"must be one of {', '.join(self.values)}"
        if self.minimum and (not re.fullmatch("[0-9]+", value) or int(value) < int(self.minimum)):
            return f"must be a number of at least {self.minimum}"
        parts = value.split(",") if self.is_list else [value]
        if self.pattern and not all(re.search(self.pattern.replace("$", r"\Z"), part) for part in parts):
            return self.constraint
        return None


def with_code(template, path):
    """The template for the zip at that path."""
    return template.replace("\n      CodeUri: .\n", f"\n      CodeUri: {json.dumps(str(path))}\n")  # JSON is YAML


def unquote(text):
    return text.strip().strip("'\"")


def unfold(text):
    """A value that may be folded over several lines, without its quotes."""
    return unquote(" ".join(line.strip() for line in text.removeprefix(">-").splitlines()))


def parameters(template):
    """The template's parameters by name."""
    section = template.split("\nParameters:\n", 1)[1].split("\nMetadata:\n", 1)[0]
    parts = re.split(r"^  (\w+):\n", section, flags=re.MULTILINE)[1:]
    return {name: Parameter(name, text) for name, text in zip(parts[::2], parts[1::2])}


def parse(text, known):
    """`Name=value Name=value`, checked as CloudFormation would. A value may contain spaces up to the next name."""
    given = {}
    for word in re.split(r"\s+(?=[A-Za-z]\w*=)", text.strip()) if text.strip() else []:
        name, separator, value = word.partition("=")
        if not separator:
            raise Refusal(f"PARAMETERS: {word} is not Name=value")
        if name not in known:
            raise Refusal(f"PARAMETERS: there is no parameter {name}; docs/deploy.md lists them: {', '.join(known)}")
        if name == "AdminKey":
            raise Refusal("PARAMETERS: the key would be in your shell's history. Leave AdminKey out: make deploy asks "
                          "for it, or reads it from the environment variable USERHUB_ADMIN_KEY or from standard input.")
        if problem := known[name].problem(value):
            raise Refusal(f"PARAMETERS: {name} {problem}")
        given[name] = value
    return given
