"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): clients train, the server averages by the number of samples."""

from .contract import ClientHalf, Plugin, ServerHalf, Settings


class FedAvgSettings(Settings):
    """FedAvg has no settings of its own; epochs, batch size and learning rate stand under `train`."""


plugin = Plugin(FedAvgSettings, ClientHalf, ServerHalf, "average of the clients' weights by samples (McMahan 2017)")
