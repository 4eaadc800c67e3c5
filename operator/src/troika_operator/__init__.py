"""Turns PretrainJobs and FinetuneJobs into trainer pods and keeps the truth about them."""
