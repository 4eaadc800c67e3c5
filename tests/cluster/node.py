"""The node: kubelet and kube-proxy, and the GPUs that it claims to have."""

import json
from pathlib import Path

from cluster import certificates, machine, processes
from cluster.kubectl import Kubectl
from cluster.settings import CGROUP, NETWORK, NODE_NAME, NUM_GPUS, PLACES, PORTS

LABELS = {
    "topology.kubernetes.io/region": "local",
    "topology.kubernetes.io/zone": "local-a",
    "node.kubernetes.io/instance-type": "embedded",
}
KUBELET_ROOT = PLACES.state / "kubelet"


def start_kubelet(program: Path) -> None:
    """Start the kubelet; it registers the node by itself."""
    machine.make_cgroups()
    config = PLACES.run / "kubelet.json"
    config.write_text(json.dumps(_kubelet_config()))
    labels = ",".join(f"{key}={value}" for key, value in LABELS.items())
    command: processes.Command = [
        *(program, f"--config={config}", f"--kubeconfig={certificates.kubeconfig('kubelet')}"),
        *(f"--root-dir={KUBELET_ROOT}", f"--cert-dir={KUBELET_ROOT}/pki"),
        *(f"--hostname-override={NODE_NAME}", f"--node-ip={NETWORK.address}"),
        f"--node-labels={labels}",
    ]
    processes.start("kubelet", command)


def start_proxy(program: Path) -> None:
    """Start kube-proxy, which makes Services' addresses work on this machine and in its pods."""
    config = PLACES.run / "kube-proxy.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                "clientConnection": {"kubeconfig": str(certificates.kubeconfig("proxy"))},
                "hostnameOverride": NODE_NAME,
                "clusterCIDR": NETWORK.pods,
                "healthzBindAddress": f"127.0.0.1:{PORTS.proxy_health}",
                "metricsBindAddress": f"127.0.0.1:{PORTS.proxy_metrics}",
                # The machine's limits are the machine's, and in a container cannot be written.
                "conntrack": {"maxPerCore": 0},
                "oomScoreAdj": 0,
            }
        )
    )
    processes.start("kube-proxy", (program, f"--config={config}"))


def wait_until_ready(kubectl: Kubectl) -> None:
    """Return once the node is Ready, which needs containerd, the CNI plugins and the kubelet."""
    processes.wait_for(
        processes.recorded()["kubelet"], lambda: is_ready(kubectl), what="the node", timeout=90
    )


def is_ready(kubectl: Kubectl) -> bool:
    """Whether the node's Ready condition is true."""
    path = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl.succeeds("get", "node", NODE_NAME) and (
        kubectl("get", "node", NODE_NAME, path) == "True"
    )


def advertise_gpus(kubectl: Kubectl, count: int = NUM_GPUS) -> None:
    """Let the node have `count` GPUs that do not exist; scheduler and kubelet hand them out.

    A kubelet that starts anew may forget them, so call this again after restarting one.
    """
    # The kubelet reports no disk where it cannot tell the device; pods may ask for some.
    resources = {"nvidia.com~1gpu": str(count), "ephemeral-storage": "200Gi"}
    patch = [
        {"op": "add", "path": f"/status/{field}/{name}", "value": amount}
        for field in ("capacity", "allocatable")
        for name, amount in resources.items()
    ]
    kubectl(
        *("patch", "node", NODE_NAME, "--subresource=status", "--type=json"),
        f"--patch={json.dumps(patch)}",
    )


def _kubelet_config() -> dict[str, object]:
    no_pressure = ("nodefs.available", "nodefs.inodesFree", "imagefs.available")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NETWORK.address,
        "port": PORTS.kubelet,
        "healthzPort": PORTS.kubelet_health,
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(certificates.certificate("ca"))},
        },
        "tlsCertFile": str(certificates.certificate("kubelet")),
        "tlsPrivateKeyFile": str(certificates.key("kubelet")),
        "containerRuntimeEndpoint": f"unix://{PLACES.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [NETWORK.address],
        "clusterDomain": NETWORK.domain,
        "podLogsDir": str(PLACES.state / "pod-logs"),
        "volumePluginDir": str(KUBELET_ROOT / "volume-plugins"),
        "maxPods": 250,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        # A disk that others fill, or whose device is not seen, is no reason to evict a test's pod.
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi", **dict.fromkeys(no_pressure, "0%")},
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        # Chains that only an iptables kube-proxy needs, and that nobody would take away.
        "makeIPTablesUtilChains": False,
    }
