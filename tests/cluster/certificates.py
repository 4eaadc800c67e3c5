"""Certificates, keys and kubeconfigs: made anew for each cluster, by the openssl command."""

import json
from dataclasses import dataclass
from pathlib import Path

from cluster.settings import NETWORK, NODE_NAME, PLACES, PORTS
from cluster.shell import run

CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
"""


@dataclass(frozen=True)
class Identity:
    """Who a certificate speaks for: RBAC reads the user and the groups from it."""

    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Host names and addresses, for those that serve."""


NODE_USER = f"system:node:{NODE_NAME}"
ADMINISTRATORS = ("system:masters",)
API_NAMES = (
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    f"DNS:kubernetes.default.svc.{NETWORK.domain}",
    "IP:127.0.0.1",
    f"IP:{NETWORK.address}",
    f"IP:{NETWORK.first_service}",
)
IDENTITIES = {
    "etcd": Identity("etcd", names=("IP:127.0.0.1",)),
    "apiserver": Identity("kube-apiserver", ADMINISTRATORS, API_NAMES),
    "front-proxy": Identity("front-proxy"),
    "admin": Identity("admin", ADMINISTRATORS),
    "controller-manager": Identity("system:kube-controller-manager", names=("IP:127.0.0.1",)),
    "scheduler": Identity("system:kube-scheduler", names=("IP:127.0.0.1",)),
    "kubelet": Identity(
        NODE_USER, ("system:nodes",), (f"DNS:{NODE_NAME}", f"IP:{NETWORK.address}", "IP:127.0.0.1")
    ),
    "proxy": Identity("system:kube-proxy"),
    "coredns": Identity("system:coredns"),
    "prometheus": Identity("system:prometheus"),
}


def create() -> None:
    """Make the authority, one certificate per identity, and one kubeconfig per client."""
    PLACES.pki.mkdir(parents=True, mode=0o700)
    (PLACES.pki / "openssl.cnf").write_text(CONFIG)
    _issue("ca", Identity("troika-cluster"), extensions="authority")
    for name, identity in IDENTITIES.items():
        _issue(name, identity, extensions="leaf")
        _write_kubeconfig(PLACES.pki / f"{name}.kubeconfig", name)
    run("openssl", "genrsa", "-out", PLACES.pki / "service-accounts.key", 2048)
    _write_kubeconfig(PLACES.kubeconfig, "admin")


def certificate(name: str) -> Path:
    """Where the certificate of `name` is; `ca` is the authority's."""
    return PLACES.pki / f"{name}.crt"


def key(name: str) -> Path:
    """Where the private key of `name` is."""
    return PLACES.pki / f"{name}.key"


def kubeconfig(name: str) -> Path:
    """The kubeconfig that speaks as `name`."""
    return PLACES.pki / f"{name}.kubeconfig"


def _issue(name: str, identity: Identity, *, extensions: str) -> None:
    """One openssl call makes the key and the certificate."""
    subject = "".join(f"/O={group}" for group in identity.groups) + f"/CN={identity.user}"
    signer = ("-CA", certificate("ca"), "-CAkey", key("ca")) if name != "ca" else ()
    names = ("-addext", f"subjectAltName={','.join(identity.names)}") if identity.names else ()
    run(
        *("openssl", "req", "-x509", "-config", PLACES.pki / "openssl.cnf"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 3650),
        *("-subj", subject, "-extensions", extensions),
        *("-keyout", key(name), "-out", certificate(name)),
        *signer,
        *names,
    )


def _write_kubeconfig(file: Path, name: str) -> None:
    """Paths rather than data, so that the keys stay in one place; JSON is YAML too."""
    server = {
        "server": f"https://127.0.0.1:{PORTS.apiserver}",
        "certificate-authority": str(certificate("ca")),
    }
    user = {"client-certificate": str(certificate(name)), "client-key": str(key(name))}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "troika", "cluster": server}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "troika", "context": {"cluster": "troika", "user": name}}],
        "current-context": "troika",
    }
    file.write_text(json.dumps(document, indent=2) + "\n")
