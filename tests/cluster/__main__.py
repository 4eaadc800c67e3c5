"""The command line: `python3 -m cluster VERB`; answers on standard output, progress on error."""

import argparse
import sys
from collections.abc import Callable

from cluster import baseimages, binaries, images, machine, packages, processes, up
from cluster.errors import ClusterError
from cluster.kubectl import Kubectl
from cluster.settings import PLACES, REPOSITORY
from cluster.shell import say, stage


def start(_: argparse.Namespace) -> int:
    """Start the cluster, or reuse the healthy one."""
    with stage("up"):
        cluster = up.ensure_up()
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def stop(_: argparse.Namespace) -> int:
    """Take the cluster away; the caches stay."""
    with stage("down"):
        up.take_down()
    return 0


def status(_: argparse.Namespace) -> int:
    """Say what runs and where; fails when the cluster is not healthy."""
    if not up.RECORD.exists():
        print("down")
        return 1
    cluster = up.running()
    for process in processes.recorded().values():
        state = "runs" if process.alive else f"dead, see {process.log}"
        print(f"{process.name:<24} {process.pid:>7} {state}")
    for name in ("kubeconfig", "kubectl", "helm", "promtool", "prometheus_url", "audit_log"):
        print(f"{name:<24} {getattr(cluster, name)}")
    healthy = up.is_healthy(Kubectl(cluster.kubectl))
    print("healthy" if healthy else "not healthy")
    return 0 if healthy else 1


def kubeconfig(_: argparse.Namespace) -> int:
    """Print the path of the administrator's kubeconfig."""
    print(PLACES.kubeconfig)
    return 0


def build(_: argparse.Namespace) -> int:
    """Build every program and image; needs no cluster."""
    machine.require()
    packages.ensure()
    binaries.ensure()
    baseimages.ensure_pause()
    baseimages.ensure_base()
    if not (REPOSITORY / "Dockerfile").exists():
        say("no Dockerfile, so no images of ours")
        return 0
    for target in images.TARGETS:
        print(images.ensure_built(images.source_of(target)).name)
    return 0


def load_image(arguments: argparse.Namespace) -> int:
    """Build images where their sources changed, load them, and print their names."""
    cluster = up.ensure_up(*arguments.target)
    for target in arguments.target:
        print(cluster.image(target))
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "up": start,
    "down": stop,
    "status": status,
    "kubeconfig": kubeconfig,
    "build": build,
    "load-image": load_image,
}


def main() -> int:
    """Run one verb; 1 when it cannot be done."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, function in VERBS.items():
        verb = verbs.add_parser(name, help=function.__doc__)
        if name == "load-image":
            verb.add_argument("target", nargs="+", choices=sorted(images.TARGETS))
    arguments = parser.parse_args()
    try:
        return VERBS[arguments.verb](arguments)
    except ClusterError as error:
        print(f"cluster: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
