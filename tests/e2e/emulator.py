"""Starts ministack with what it lacks for this project's templates.

Saved queries and styles for managed login are created, and do nothing. An alarm on an expression becomes one on the
first metric in it. Access keys are made as its IAM makes them. Messages go back from a dead-letter queue at once.
"""

import sys
import time
import uuid

from ministack.app import main
from ministack.core.concurrency import esm_wake
from ministack.services import iam, sqs
from ministack.services.cloudformation import provisioners

whole_alarm = provisioners._cw_metric_alarm_record


def alarm(name, properties):
    if properties.get("Metrics"):
        [first, *_] = [metric["MetricStat"] for metric in properties["Metrics"] if "MetricStat" in metric]
        properties = {**properties, **first["Metric"], "Metrics": None, "Statistic": first["Stat"],
                      "Period": first["Period"]}
    return whole_alarm(name, properties)


def access_key(logical_id, properties, stack):
    key, secret = iam._gen_access_key_id(), uuid.uuid4().hex
    iam._access_keys[key] = {"UserName": properties["UserName"], "AccessKeyId": key, "SecretAccessKey": secret,
                             "Status": "Active", "CreateDate": iam._now()}
    return key, {"SecretAccessKey": secret}


def created_only(logical_id, properties, stack):
    return str(uuid.uuid4()), {}


def kept(physical_id, before, after, stack):
    return physical_id, {}


def deleted(physical_id, properties):
    iam._access_keys.pop(physical_id, None)


def start_message_move_task(arguments, url):
    given_up = sqs._queue_by_arn(arguments["SourceArn"])
    messages, given_up["messages"] = given_up["messages"], []
    for message in messages:
        queue = sqs._queue_by_arn(message["sys"].pop("DeadLetterQueueSourceArn"))
        queue["messages"].append({**message, "receive_count": 0, "sent_at": time.time()})
    esm_wake.set()
    return {"TaskHandle": "task"}


sqs._HANDLERS["StartMessageMoveTask"] = start_message_move_task
provisioners._cw_metric_alarm_record = alarm
for kind, create in [("Logs::QueryDefinition", created_only), ("Cognito::ManagedLoginBranding", created_only),
                     ("IAM::AccessKey", access_key)]:
    provisioners._RESOURCE_HANDLERS[f"AWS::{kind}"] = {"create": create, "update": kept, "delete": deleted}
sys.exit(main())
