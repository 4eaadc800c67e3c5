"""Pure builders of the objects that a job consists of."""
