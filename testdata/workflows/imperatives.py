"""A workflow that is put together without a decorator."""

from flytekit import Workflow, kwtypes
from jobs import Job

inc = Job("imperatives.inc", add=1)
pair = Job("imperatives.pair", inputs=kwtypes(a=int, b=int))

# x + 1 + y.
built = Workflow(name="imperatives.built")
built.add_workflow_input("x", int)
built.add_workflow_input("y", int)
first = built.add_entity(inc, x=built.inputs["x"])
last = built.add_entity(pair, a=first.outputs["o0"], b=built.inputs["y"])
built.add_workflow_output("sum", last.outputs["o0"])
