"""Install the chart: the one way in which the demo and the end-to-end tests get an operator."""

from pathlib import Path

from .target import Target

CHART = Path(__file__).resolve().parents[2] / "charts" / "troika"
RELEASE = "troika"
NAMESPACE = "troika-system"


def install(target: Target, *, poll_seconds: int) -> str:
    """`helm upgrade --install` of the checkout's chart; returns what helm printed."""
    values = {
        "image.registry": target.operator.registry,
        "image.repository": target.operator.repository,
        "image.tag": target.operator.tag,
        "image.pullPolicy": target.pull_policy,
        "trainer.image.repository": target.trainer.repository,
        "trainer.image.tag": target.trainer.tag,
    }
    settings = [f"--set-string={key}={value}" for key, value in values.items()]
    return target.helm(
        *("upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace"),
        # Tests apply the CRDs without Helm; from here on they are the release's.
        *("--take-ownership", "--wait", "--timeout", "5m"),
        *(*settings, f"--set=settings.pollInterval={poll_seconds}"),
    )
