"""Reference point: every client trains alone on its own data. What a federation gains shows against it.

Nothing travels. All clients start from the same initial weights and keep their models from round to round. Without a
global model, `accuracy` is the mean of the personal models' accuracies on the server's test set, and
`client_accuracy` that on the clients' own test sets.
"""

from .contract import Ask, ClientHalf, Plugin, ServerHalf, Settings, Site, Update


class LocalSettings(Settings):
    """No settings of its own."""


class LocalClient(ClientHalf[LocalSettings]):
    """Trains the client's own model further."""

    personal = True
    any_model = True

    def prepare(self, site: Site) -> None:
        """Load the client's own model, or keep the initial one."""
        site.load(site.state)

    def train(self, site: Site) -> Update:
        """Train and keep the model at the site."""
        fit = site.fit(lambda batch: self.loss(site, batch))
        site.state = site.weights()
        return Update({}, fit.examples, fit.metrics)


class LocalServer(ServerHalf[LocalSettings]):
    """Holds no model."""

    def __init__(self, settings: LocalSettings, site: Site) -> None:
        super().__init__(settings, site)
        self.weights = {}

    def ask(self, round_: int) -> Ask | None:
        """Ask for training, send nothing."""
        return Ask()


plugin = Plugin(LocalSettings, LocalClient, LocalServer, "reference: every client trains alone")
