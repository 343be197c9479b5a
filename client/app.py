"""The ClientApp: a Flower message in, a Flower message out, unchanged on every engine and on Flower's own nodes.

Which client a node is stands in its `node_config` under `client`; without it, `partition-id` N means client-N.
"""

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from ..strategies.base import WireError, read_run_config, read_task, update_content
from ..strategies.federation import Federation
from ..strategies.partial import read_group
from .group import run_group
from .workspace import Visit, Workspace, workspace_for

app = ClientApp()


def client_name(context: Context) -> str:
    """Give the name of the client that a node stands for. Raises WireError."""
    if "client" in context.node_config:
        return str(context.node_config["client"])
    if "partition-id" in context.node_config:
        return Federation.name(int(context.node_config["partition-id"]))
    raise WireError("the node's configuration names no client: set client=NAME or partition-id=N")


def _workspace(context: Context) -> Workspace:
    return workspace_for(*read_run_config(context.run_config))


def _visit(message: Message, context: Context) -> Visit:
    round_, phase, values, received = read_task(message.content)
    return Visit(client_name(context), round_, phase, values, received)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client."""
    update = _workspace(context).train(_visit(message, context))
    return Message(update_content(update), reply_to=message)


@app.train("group")
def train_group(message: Message, context: Context) -> Message:
    """Train a group of clients; give the sum of their updates, and what became of each."""
    workspace = _workspace(context)
    group = read_group(message.content)
    round_, phase, values, received = read_task(message.content)
    # Each with mappings of its own: what a client changes in them, the next one would find.
    visits = [Visit(name, round_, phase, dict(values), dict(received)) for name in group.clients]
    return Message(run_group(workspace, visits, group.expects, group.stacked).content(), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate one client."""
    update = _workspace(context).evaluate(_visit(message, context))
    return Message(update_content(update), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which client this is and how many samples it holds."""
    name = client_name(context)
    counts = _workspace(context).describe(name)
    return Message(
        RecordDict({"holds": MetricRecord(dict(counts)), "who": ConfigRecord({"client": name})}),
        reply_to=message,
    )
