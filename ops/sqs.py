"""The queue with the reports that UserHub did not take, and the one with those that were given up."""

import os

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


def sqs(aws, *arguments):
    """Version 1 of the CLI does not read the user's own endpoint for SQS."""
    own = os.environ.get("AWS_ENDPOINT_URL_SQS") or os.environ.get("AWS_ENDPOINT_URL")
    return aws.ask("sqs", *arguments, *(["--endpoint-url", own] if own else []))


def waiting(aws, url):
    """How many messages are in a queue, or None if there is no such queue."""
    found = sqs(aws, "get-queue-attributes", "--queue-url", url, "--attribute-names", *COUNTS)
    return None if found is None else sum(int(found["Attributes"][name]) for name in COUNTS)


def urls(aws, prefix):
    """The URLs of the queues whose names begin so."""
    return (sqs(aws, "list-queues", "--queue-name-prefix", prefix) or {}).get("QueueUrls", [])


def given_up(url):
    """The URL of the dead-letter queue."""
    return f"{url}-given-up"
