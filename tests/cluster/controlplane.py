"""etcd, the API server, the controller manager and the scheduler."""

import json
from pathlib import Path

from cluster import certificates, processes
from cluster.kubectl import Kubectl
from cluster.settings import NETWORK, PLACES, PORTS

CA = certificates.certificate("ca")
SERVICE_ACCOUNT_KEY = PLACES.pki / "service-accounts.key"

GANG_SCHEDULING = "--feature-gates=GenericWorkload=true"
"""PodGroups, which are off by default in 1.37: the API server serves them, the scheduler obeys."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # The cluster's own heartbeats and watches would drown what a test wants to count.
        {
            "level": "None",
            "userGroups": ["system:nodes"],
            "resources": [{"group": "coordination.k8s.io"}],
        },
        {
            "level": "None",
            "users": [
                certificates.NODE_USER,
                *("system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"),
                *("system:apiserver", "system:coredns", "system:prometheus"),
            ],
            "verbs": ["get", "list", "watch"],
        },
        {"level": "None", "nonResourceURLs": ["*"]},
        {"level": "Metadata"},
    ],
}


def start(programs: dict[str, Path], kubectl: Kubectl) -> None:
    """Start the control plane and return once it serves."""
    _start_etcd(programs["etcd"])
    apiserver = _start_apiserver(programs["kube-apiserver"])
    processes.wait_for(
        apiserver, lambda: kubectl.succeeds("get", "--raw=/readyz"), what="the API server"
    )
    _start_controller_manager(programs["kube-controller-manager"])
    _start_scheduler(programs["kube-scheduler"])


def wait_for_service_account(kubectl: Kubectl) -> None:
    """No pod can be made in `default` before the controller manager made its service account."""
    processes.wait_for(
        processes.recorded()["kube-controller-manager"],
        lambda: kubectl.succeeds("get", "serviceaccount", "default", "-n", "default"),
        what="the default service account",
    )


def _start_etcd(program: Path) -> None:
    """One member that trusts the disk: a cluster that is thrown away needs no fsync."""
    client, peer = f"https://127.0.0.1:{PORTS.etcd}", f"http://127.0.0.1:{PORTS.etcd_peer}"
    command: processes.Command = [
        *(program, "--name=troika", f"--data-dir={PLACES.state}/etcd", "--unsafe-no-fsync"),
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        f"--initial-cluster=troika={peer}",
        *("--client-cert-auth", f"--trusted-ca-file={CA}"),
        f"--cert-file={certificates.certificate('etcd')}",
        f"--key-file={certificates.key('etcd')}",
        "--log-level=warn",
    ]
    processes.start("etcd", command)


def _start_apiserver(program: Path) -> processes.Process:
    policy = PLACES.run / "audit-policy.json"
    policy.write_text(json.dumps(AUDIT_POLICY))
    certificate, key = certificates.certificate("apiserver"), certificates.key("apiserver")
    command: processes.Command = [
        program,
        *(f"--secure-port={PORTS.apiserver}", f"--advertise-address={NETWORK.address}"),
        *(f"--client-ca-file={CA}", f"--tls-cert-file={certificate}"),
        f"--tls-private-key-file={key}",
        *(f"--etcd-servers=https://127.0.0.1:{PORTS.etcd}", f"--etcd-cafile={CA}"),
        *(f"--etcd-certfile={certificate}", f"--etcd-keyfile={key}"),
        *(f"--kubelet-client-certificate={certificate}", f"--kubelet-client-key={key}"),
        f"--kubelet-certificate-authority={CA}",
        # The controller manager and the scheduler read this authority too, and complain without.
        *(f"--requestheader-client-ca-file={CA}", "--requestheader-allowed-names=front-proxy"),
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={certificates.certificate('front-proxy')}",
        f"--proxy-client-key-file={certificates.key('front-proxy')}",
        # Without it `kubectl logs` asks the machine's DNS for the node's name.
        "--kubelet-preferred-address-types=InternalIP",
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
        f"--service-cluster-ip-range={NETWORK.services}",
        f"--service-account-issuer=https://kubernetes.default.svc.{NETWORK.domain}",
        f"--service-account-key-file={SERVICE_ACCOUNT_KEY}",
        f"--service-account-signing-key-file={SERVICE_ACCOUNT_KEY}",
        *("--allow-privileged=true", "--profiling=false"),
        *(GANG_SCHEDULING, "--runtime-config=scheduling.k8s.io/v1beta1=true"),
        *(f"--audit-policy-file={policy}", f"--audit-log-path={PLACES.audit_log}"),
        # Big enough that no benchmark meets a rotation.
        *("--audit-log-maxsize=2000", "--audit-log-maxbackup=1"),
    ]
    return processes.start("kube-apiserver", command)


def _start_controller_manager(program: Path) -> None:
    kubeconfig = certificates.kubeconfig("controller-manager")
    command: processes.Command = [
        program,
        *("--bind-address=127.0.0.1", f"--secure-port={PORTS.controller_manager}"),
        f"--tls-cert-file={certificates.certificate('controller-manager')}",
        f"--tls-private-key-file={certificates.key('controller-manager')}",
        *(f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}"),
        f"--authorization-kubeconfig={kubeconfig}",
        *("--use-service-account-credentials", f"--root-ca-file={CA}"),
        f"--service-account-private-key-file={SERVICE_ACCOUNT_KEY}",
        # One controller manager needs no election; the default 20 requests a second would be
        # what a benchmark of many jobs measures.
        *("--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000"),
        GANG_SCHEDULING,
    ]
    processes.start("kube-controller-manager", command)


def _start_scheduler(program: Path) -> None:
    kubeconfig = certificates.kubeconfig("scheduler")
    config = PLACES.run / "scheduler.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "leaderElection": {"leaderElect": False},
                "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000},
            }
        )
    )
    command: processes.Command = [
        program,
        *(f"--config={config}", "--bind-address=127.0.0.1", f"--secure-port={PORTS.scheduler}"),
        f"--tls-cert-file={certificates.certificate('scheduler')}",
        f"--tls-private-key-file={certificates.key('scheduler')}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        GANG_SCHEDULING,
    ]
    processes.start("kube-scheduler", command)
