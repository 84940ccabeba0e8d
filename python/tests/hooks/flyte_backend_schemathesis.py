"""What the contract says and a JSON Schema cannot: a template's task type is the path's."""

from typing import Any
from urllib.parse import unquote

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    has_template = case.operation.definition.raw.get("operationId") in ("createJob", "executeTask")
    template = case.body.get("template") if has_template and isinstance(case.body, dict) else None
    if not isinstance(template, dict) or not isinstance(template.get("type"), str):
        return
    named = case.path_parameters.get("task_type")
    is_plain = isinstance(named, str) and unquote(named) == named
    rest = {key: value for key, value in template.items() if key != "type"}
    case.body = {**case.body, "template": {**rest, "type": named} if is_plain else rest}
