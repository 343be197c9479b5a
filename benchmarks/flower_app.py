"""The work as a user of Flower writes it: a ClientApp and a ServerApp with Flower's own FedAvg.

To Flower's advantage each actor keeps model and tensors from one message to the next.
"""

import json
import os
import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

WORK, ROUNDS, OUT = "FEDBOX_PEER_WORK", "FEDBOX_PEER_ROUNDS", "FEDBOX_PEER_OUT"

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one client."""
    import torch
    from race import WORKS, loop_of

    torch.set_num_threads(1)
    loop = loop_of(WORKS[os.environ[WORK]])
    round_ = int(message.content["config"]["server-round"])
    state = message.content["arrays"].to_torch_state_dict()
    examples = loop.fit(round_, int(context.node_config["partition-id"]), state)
    content = {"arrays": ArrayRecord(loop.model.state_dict()), "metrics": MetricRecord({"num-examples": examples})}
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; write when each ended, in seconds since the epoch, and the final weights."""
    import torch
    from race import WORKS, config_of, initial
    from safetensors.numpy import save_file

    from fedbox.strategies.federation import Federation

    ended: list[float] = []
    start = initial(Federation.prepare(config_of(WORKS[os.environ[WORK]])))
    arrays = ArrayRecord({name: torch.from_numpy(value) for name, value in start.items()})
    result = FedAvg(fraction_evaluate=0.0).start(
        grid,
        arrays,
        num_rounds=int(os.environ[ROUNDS]),
        evaluate_fn=lambda round_, _: ended.append(time.time()) if round_ else None,
    )
    weights = {name: value.numpy() for name, value in result.arrays.to_torch_state_dict().items()}
    save_file(weights, os.path.join(os.environ[OUT], "model.safetensors"))
    with open(os.path.join(os.environ[OUT], "ended.json"), "w", encoding="utf-8") as file:
        json.dump(ended, file)
