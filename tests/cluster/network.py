"""The bridge that pods hang on, the way out for them, and the cluster's DNS server."""

import json
import shutil
from pathlib import Path

from cluster import certificates, processes
from cluster.kubectl import Kubectl
from cluster.settings import NETWORK, PLACES, PORTS
from cluster.shell import run, succeeds

CNI_CONFIG = PLACES.run / "cni"
CNI_NAME = "troika"
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    # Or a pod's traffic to a ClusterIP whose pod hangs on the same bridge is not translated back.
    "net/bridge/bridge-nf-call-iptables": "1",
}
SAVED_SYSCTLS = PLACES.run / "sysctls.json"

TABLES = (f"table ip {NETWORK.nft_table}", "table ip kube-proxy", "table ip6 kube-proxy")

# Our own table instead of the CNI plugin's iptables rules: one command takes it all away.
MASQUERADE = f"""\
table ip {NETWORK.nft_table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {NETWORK.pods} ip daddr != {NETWORK.pods} oifname != "{NETWORK.bridge}" masquerade
  }}
}}
"""

# No cache for the cluster's own names: a name that is asked for a moment too early would stay
# unknown for as long as the answer is kept, and a rendezvous asks early.
COREFILE = f"""\
{NETWORK.domain} in-addr.arpa {{
  bind {NETWORK.address}
  errors
  health 127.0.0.1:{PORTS.coredns_health}
  kubernetes {NETWORK.domain} in-addr.arpa {{
    kubeconfig {certificates.kubeconfig("coredns")}
    ttl 0
    fallthrough in-addr.arpa
  }}
  forward . /etc/resolv.conf
}}
. {{
  bind {NETWORK.address}
  errors
  cache 30
  forward . /etc/resolv.conf
}}
"""

DNS_ACCESS = (
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            },
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:coredns",
        },
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}
        ],
    },
)


def create() -> None:
    """Make the bridge, let pods out, and write what containerd hands to the CNI plugins."""
    if not Path("/proc/sys/net/bridge").exists():
        succeeds("modprobe", "br_netfilter")
    files = {name: Path("/proc/sys") / name for name in SYSCTLS}
    saved = {name: file.read_text().strip() for name, file in files.items() if file.exists()}
    SAVED_SYSCTLS.write_text(json.dumps(saved))
    for name in saved:
        files[name].write_text(SYSCTLS[name])
    prefix = NETWORK.pods.partition("/")[2]
    run("ip", "link", "add", NETWORK.bridge, "type", "bridge")
    run("ip", "address", "add", f"{NETWORK.address}/{prefix}", "dev", NETWORK.bridge)
    run("ip", "link", "set", NETWORK.bridge, "up")
    run("nft", "-f", "-", stdin=MASQUERADE)
    _write_cni_config()


def leftovers() -> list[str]:
    """The bridge and the tables, as far as they exist."""
    bridge = Path("/sys/class/net", NETWORK.bridge)
    tables = run("nft", "list", "tables").splitlines()
    return [f"interface {bridge.name}"] * bridge.exists() + [t for t in tables if t in TABLES]


def remove() -> None:
    """Take away all that `create` and kube-proxy made; fine when there is nothing."""
    for leftover in leftovers():
        if leftover in TABLES:
            run("nft", "delete", *leftover.split())
        else:
            run("ip", "link", "delete", NETWORK.bridge)
    # The CNI library keeps each pod's result here, whatever the configuration says.
    for result in Path("/var/lib/cni/results").glob(f"{CNI_NAME}-*"):
        result.unlink()
    if SAVED_SYSCTLS.exists():
        for name, value in json.loads(SAVED_SYSCTLS.read_text()).items():
            (Path("/proc/sys") / name).write_text(value)


def start_dns(program: Path, kubectl: Kubectl) -> None:
    """Start CoreDNS on the bridge's address, where the kubelet sends pods to."""
    kubectl.apply(DNS_ACCESS)
    corefile = PLACES.run / "Corefile"
    corefile.write_text(COREFILE)
    processes.start("coredns", (program, "-conf", corefile))


def _write_cni_config() -> None:
    shutil.rmtree(CNI_CONFIG, ignore_errors=True)
    CNI_CONFIG.mkdir()
    plugin = {
        "type": "bridge",
        "bridge": NETWORK.bridge,
        # A pod that calls its own Service gets its packet back through the port it came from.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(PLACES.run / "addresses"),
            "ranges": [
                [
                    {
                        "subnet": NETWORK.pods,
                        "rangeStart": NETWORK.first_pod,
                        "gateway": NETWORK.address,
                    }
                ]
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    config = {"cniVersion": "0.4.0", "name": CNI_NAME, "plugins": [plugin]}
    (CNI_CONFIG / "10-troika.conflist").write_text(json.dumps(config))
