"""A Flower SuperLink and SuperNodes on this machine, with TLS and node authentication, that run a packed app."""

import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedbox.server.certificates import make_certificates


class SuperLink:
    """Runs apps on `nodes` SuperNodes; everything lies in `folder`, and ends with the `with` block."""

    def __init__(self, folder: Path, nodes: int, port: int) -> None:
        self.folder, self.nodes, self.port = folder, nodes, port
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "SuperLink":
        home, pki = self.folder / "home", self.folder / "pki"
        home.mkdir(parents=True)
        make_certificates(pki, ["localhost"], [])
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{pki / "ca.pem"}"\n'
        )
        tls = ["--ssl-ca-certfile", str(pki / "ca.pem"), "--ssl-certfile", str(pki / "server.pem")]
        tls += ["--ssl-keyfile", str(pki / "server.key"), "--enable-supernode-auth"]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        self._start("superlink", "flower-superlink", *tls, *address, "--database", str(self.folder / "state.db"))
        self._await("supernode", "list")
        for number in range(self.nodes):
            self._node(number, pki / "ca.pem")
        return self

    def _node(self, number: int, ca: Path) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        secret, public = self.folder / f"node-{number}", self.folder / f"node-{number}.pub"
        forms = serialization.Encoding, serialization.PrivateFormat, serialization.PublicFormat
        secret.write_bytes(key.private_bytes(forms[0].PEM, forms[1].OpenSSH, serialization.NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(forms[0].OpenSSH, forms[2].OpenSSH))
        self._await("supernode", "register", str(public))
        port = self.port + 1 + number
        self._start(
            f"supernode-{number}", "flower-supernode", "--root-certificates", str(ca),
            "--superlink", f"127.0.0.1:{self.port}", "--auth-supernode-private-key", str(secret),
            "--host", "127.0.0.1", "--port", str(port), "--node-config", f"partition-id={number}",
        )  # fmt: skip

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "FLWR_HOME": str(self.folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
        }

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            environment = {**self._environment, "FLWR_HOME": str(self.folder / f"home-{name}")}
            self._processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            )

    def _await(self, *command: str, seconds: float = 60.0) -> None:
        """Try a command of `flwr` until it succeeds: the SuperLink takes some seconds to come up."""
        last = time.monotonic() + seconds
        while True:
            done = subprocess.run(["flwr", *command], capture_output=True, env=self._environment, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > last:
                raise RuntimeError(f"flwr {' '.join(command)}: {(done.stdout + done.stderr).decode()[-2000:]}")
            time.sleep(1.0)

    def run(self, app: Path, seconds: float = 600.0) -> None:
        """Run an app to its end. Raises RuntimeError when it fails: `flwr run` itself exits 0 then."""
        asked = subprocess.run(
            ["flwr", "run", str(app), "--format", "json"], capture_output=True, text=True, env=self._environment,
            check=False,
        )  # fmt: skip
        try:
            number = str(json.loads(asked.stdout[asked.stdout.index("{") :])["run-id"])
        except (ValueError, KeyError) as error:
            raise RuntimeError(f"flwr run: {(asked.stdout + asked.stderr)[-2000:]}") from error
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            listed = subprocess.run(
                ["flwr", "ls", "--run-id", number, "--format", "json"], capture_output=True, text=True,
                env=self._environment, check=False,
            )  # fmt: skip
            status = json.loads(listed.stdout[listed.stdout.index("{") :])["runs"][0]["status"]
            if status.startswith("finished"):
                if status != "finished:completed":
                    raise RuntimeError(f"the run ended as {status}; see {self.folder}/superlink.log")
                return
            time.sleep(0.5)
        raise RuntimeError(f"the run did not end within {seconds:g} s")

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        import signal

        for process in reversed(self._processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
