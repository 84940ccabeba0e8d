"""What the contract says and a JSON Schema cannot: a template that names its task type names the path's."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if case.operation.definition.raw.get("operationId") not in ("createJob", "executeTask") or not isinstance(body, dict):
        return
    template = body.get("template")
    if isinstance(template, dict) and isinstance(template.get("type"), str):
        case.body = {**body, "template": {**template, "type": case.path_parameters.get("task_type")}}
