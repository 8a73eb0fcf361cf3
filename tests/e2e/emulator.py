"""Starts ministack, with what it lacks of this project's templates: it keeps a saved query and a style for managed login in
no other way than that they were created, an alarm on an expression by the first metric in it, and access keys in its IAM.
"""

import sys
import uuid

from ministack.app import main
from ministack.services import iam
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


provisioners._cw_metric_alarm_record = alarm
for kind, create in [("Logs::QueryDefinition", created_only), ("Cognito::ManagedLoginBranding", created_only),
                     ("IAM::AccessKey", access_key)]:
    provisioners._RESOURCE_HANDLERS[f"AWS::{kind}"] = {"create": create, "update": kept, "delete": deleted}
sys.exit(main())
