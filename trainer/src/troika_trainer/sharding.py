"""Weights, gradients and optimizer state in parts on the ranks: torch's FSDP2, layer by layer.

A layer's weights are gathered when it is computed, forward and backward, and its gradients are
summed into the parts. So forward and backward are full of collectives, and a rank whose memory runs
out in one of them cannot let the others go on: it notes the smaller micro-batch on disk
(`microbatch.py`) and ends; the launcher restarts the ranks in place, from the newest checkpoint.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from typing_extensions import override

from troika_api.v1alpha1.training import Precision, Sharding, Training

from .distributed import Group
from .errors import ConfigError
from .layers import layers_of
from .strategy import Strategy
from .tasks.base import Objective

WHOLE_GRADIENT_SHARE = 0.1
"""Of the device's memory: what may be spent on fewer exchanges."""

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""Gathered tensor by tensor, and kept in the memory of the first rank's node only."""


class Sharded(Strategy):
    """Every rank holds a part of every weight."""

    survives_out_of_memory = False
    runs_together = True

    def __init__(self, objective: Objective, group: Group, training: Training) -> None:
        """Take the model apart; the parts go to the device, and it never holds more than a layer.

        Args:
            objective: On the CPU, the same on every rank.
            group: More than one rank.
            training: Says how it is sharded, and in which precision it computes.

        Raises:
            ConfigError: the sequences of a step cannot be shared out evenly.
        """
        super().__init__(objective, group)
        if training.global_batch_size % group.size:
            raise ConfigError(
                f"training.globalBatchSize {training.global_batch_size} is no multiple of the "
                f"{group.size} ranks, which under {training.sharding} must do equally many passes",
                "change it, or the number of nodes or GPUs",
            )
        mesh = mesh_of(group, training.sharding)
        half = training.precision is not Precision.FP32
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None,
            reduce_dtype=torch.float32 if half else None,
        )
        # transformers: all ranks generate as long as one of them does, and none skips a layer.
        for module in objective.model.modules():
            module._is_fsdp_managed_module = True  # type: ignore[assignment] # noqa: SLF001
        for layer in layers_of(objective.model):
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        # Resharded too, or its weights would lie whole in a checkpoint that follows an evaluation.
        fully_shard(objective, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        for module in objective.modules():
            if isinstance(module, FSDPModule) and group.device.type == "cpu":
                module.set_force_sum_reduction_for_comms(enable=True)  # gloo cannot average
        self._accumulates_whole = whole_gradients_fit(objective, group.device)

    @property
    def _root(self) -> FSDPModule:
        assert isinstance(self.objective, FSDPModule)
        return self.objective

    @override
    @contextlib.contextmanager
    def exchanging(self, *, gradients: bool) -> Iterator[None]:
        """Without `gradients` they stay whole on each rank, where there is room for that.

        Where there is not, each micro-batch is reduced to the parts of this rank's node, and only
        the last of a step between the nodes.
        """
        if self._accumulates_whole:
            self._root.set_requires_gradient_sync(gradients)
        else:
            self._root.set_requires_all_reduce(gradients)
        yield

    @override
    def collect(self) -> None:
        model = self.objective.model
        state = get_model_state_dict(model, options=WHOLE)
        if not self.group.is_first:
            return
        for name, tensor in state.items():  # not load_state_dict: FSDP's hooks want parts
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            if leaf in module._parameters:  # noqa: SLF001 - buffers were whole all the time
                assert isinstance(tensor, torch.Tensor)
                setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
        model.tie_weights()


def whole_gradients_fit(model: nn.Module, device: torch.device) -> bool:
    """Whether an unsharded gradient, in float32, is small beside the memory of the device."""
    if device.type != "cuda":
        return True
    gradient = sum(4 * w.numel() for w in model.parameters() if w.requires_grad)
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return gradient < WHOLE_GRADIENT_SHARE * memory


def mesh_of(group: Group, sharding: Sharding) -> DeviceMesh:
    """The ranks in one row, or for HybridFSDP a row for each node.

    Ranks are numbered node by node (`agent.py`), so those of a node stand together.
    """
    kind = group.device.type
    if sharding is Sharding.HYBRID:
        local = group.place.local_world_size
        names = ("replicate", "shard")
        return init_device_mesh(kind, (group.size // local, local), mesh_dim_names=names)
    return init_device_mesh(kind, (group.size,), mesh_dim_names=("shard",))
