"""Build the cluster's Go programs from the lock files in go/, once per machine.

A build is kept in the cache under a key made of all that it depends on, so checkouts of the same
lock files share it, and a changed lock file builds anew beside it.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import golang
from cluster.settings import KUBERNETES_VERSION, PROMETHEUS_VERSION, SOURCE, cache_folder
from cluster.shell import exclusive, run, stage


@dataclass(frozen=True)
class Module:
    """A Go module that pins programs: where its lock files are, and what to build from it."""

    folder: Path
    programs: Mapping[str, str]
    """Program name to Go package."""
    variables: Mapping[str, str]
    """Variables that the linker sets; released binaries get their version that way too."""
    tags: tuple[str, ...] = ()
    """Build tags."""

    @property
    def ldflags(self) -> str:
        """The linker's flags: no symbol table, no debug information, and the variables."""
        pairs = [f"-X {name}={value}" for name, value in self.variables.items()]
        return " ".join(["-s", "-w", *pairs])


KUBERNETES = Module(
    SOURCE / "go/kubernetes",
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        **{
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            )
        },
    },
    {"k8s.io/component-base/version.gitVersion": f"v{KUBERNETES_VERSION}"},
)
COREDNS = Module(SOURCE / "go/coredns", {"coredns": "."}, {})
PROMETHEUS = Module(
    SOURCE / "go/prometheus",
    {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
    {"github.com/prometheus/common/version.Version": PROMETHEUS_VERSION},
    # The discovery of every cloud's machines is most of its dependencies.
    ("remove_all_sd", "enable_kubernetes_sd"),
)
HELM = Module(
    SOURCE / "go/helm",
    {"helm": "helm.sh/helm/v3/cmd/helm"},
    {
        # What `helm template` takes for .Capabilities.KubeVersion when it asks no cluster.
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": KUBERNETES_VERSION.split(".")[0],
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": KUBERNETES_VERSION.split(".")[1],
    },
)


def ensure() -> dict[str, Path]:
    """Every program of the cluster, by name; built first where the cache lacks it."""
    programs: dict[str, Path] = {}
    for module in (KUBERNETES, COREDNS, PROMETHEUS, HELM):
        programs |= build(module)
    return programs


def build(module: Module) -> dict[str, Path]:
    """Build a module's programs unless the cache has them, and say where they are."""
    go = golang.find()
    root = cache_folder() / "bin"
    folder = root / f"{module.folder.name}-{_key(module, go.version)}"
    if not folder.exists():
        with exclusive(root / f"{module.folder.name}.lock"):
            if not folder.exists():
                with stage(f"built {', '.join(module.programs)} with {go.version}"):
                    _compile(module, go, folder)
    return {name: folder / name for name in module.programs}


def _compile(module: Module, go: golang.Go, folder: Path) -> None:
    """Build into a folder beside the final one, then rename: a killed build leaves no half."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as temporary:
        out = Path(temporary) / "out"
        flags = ("-trimpath", f"-tags={','.join(module.tags)}", f"-ldflags={module.ldflags}")
        run(
            go.program,
            "build",
            *flags,
            *("-o", f"{out}/"),
            *module.programs.values(),
            cwd=module.folder,
            env=golang.ENVIRONMENT,
        )
        for name, package in module.programs.items():
            built = out / _binary_name(module, package)
            if built.name != name:
                built.rename(out / name)
        shutil.move(out, folder)


def _binary_name(module: Module, package: str) -> str:
    """What `go build` calls a package's program: its last element that is not a version."""
    if package == ".":
        return module.folder.name
    parts = package.split("/")
    return parts[-2] if parts[-1].startswith("v") and parts[-1][1:].isdigit() else parts[-1]


def _key(module: Module, go_version: str) -> str:
    """A hash of everything that the build depends on."""
    recipe = (go_version, golang.ENVIRONMENT, dict(module.programs), module.ldflags, module.tags)
    digest = hashlib.sha256(repr(recipe).encode())
    for file in sorted(module.folder.iterdir()):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
