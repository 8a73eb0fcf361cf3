"""The queue with the reports that UserHub did not take, and the one with those that were given up."""

COUNTS = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]


def waiting(aws, url):
    """How many messages are in a queue, or None if there is no such queue."""
    # CLI 1 sends SQS to an endpoint of its own unless it is told the queue's, and emulators need theirs.
    found = aws.ask("sqs", "get-queue-attributes", "--queue-url", url, "--attribute-names", *COUNTS)
    return None if found is None else sum(int(found["Attributes"][name]) for name in COUNTS)


def given_up(url):
    """The URL of the dead-letter queue."""
    return f"{url}-given-up"
