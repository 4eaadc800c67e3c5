"""The Troika API: resources (v1alpha1), the contract between operator and trainer, metrics."""
