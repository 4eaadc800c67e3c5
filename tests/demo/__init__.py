"""The demo: pretrain, fine-tune and watch a model on a real cluster, from real text."""
