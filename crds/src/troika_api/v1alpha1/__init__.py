"""troika.dev/v1alpha1: the resources a user writes."""
