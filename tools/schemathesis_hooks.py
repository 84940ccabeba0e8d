"""What the contract says and JSON Schema cannot: a template that names its task type names the path's, and bodies are JSON."""

from urllib.parse import unquote

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if case.operation.definition.raw.get("operationId") not in ("createJob", "executeTask") or not isinstance(body, dict):
        return
    template = body.get("template")
    if not isinstance(template, dict) or not isinstance(template.get("type"), str):
        return
    template = dict(template)
    task_type = case.path_parameters.get("task_type")
    if isinstance(task_type, str) and unquote(task_type) == task_type:
        template["type"] = task_type
    else:  # how it is escaped is Schemathesis's own matter
        del template["type"]
    case.body = {**body, "template": template}


@schemathesis.check
def takes_json_only(ctx, response, case):
    """Schemathesis sends other content types too, but lets everything pass that is no 5xx."""
    kind = response.request.headers.get("Content-Type", "").split(";")[0]
    if case.operation.definition.raw.get("requestBody") and kind != "application/json" and response.status_code == 200:
        raise AssertionError(f"a body of {kind or 'no type'} was taken; 415 is due")
