"""Where the numbers of a run go besides its own files."""

from .mistake import FTJ, Mistake

MISTAKES = [
    Mistake(
        "tracking-without-tracker",
        FTJ,
        "tracking",
        {"secret": {"name": "keys"}},
        "spec.tracking",
        "set mlflow, wandb or both",
    ),
    Mistake(
        "tracking-password",
        FTJ,
        "tracking",
        {"mlflow": {"uri": "https://me:secret@mlflow.example.com"}},
        "spec.tracking.mlflow.uri",
        "without a password: keys belong in the Secret of tracking.secret",
    ),
    Mistake(
        "tracking-mode",
        FTJ,
        "tracking",
        {"wandb": {"project": "reviews", "mode": "offline"}},
        "spec.tracking.wandb.mode",
        '"Online", "Offline"',
    ),
]
