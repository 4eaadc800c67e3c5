"""FP8: the matrix products of linear layers in 8 bits, forward and backward.

Each tensor is scaled so that its largest value fits (dynamic, one scale a tensor), as in torchao's
tensorwise recipe: activations and weights as e4m3, gradients as e5m2, sums in higher precision.
Weights, their gradients and the optimizer stay as they are. Heads and embeddings stay in BF16.
It pays only where what scales and casts is compiled into few kernels, so FP8 implies compile.
"""

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import PreTrainedModel
from typing_extensions import override

from troika_api.v1alpha1.training import Precision, Training

from .errors import ConfigError
from .layers import layers_of

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
OLDEST = (8, 9)
"""First CUDA compute capability with FP8 matrix products (Ada; Hopper is 9.0)."""
MULTIPLE = 16
"""The hardware's products want dimensions in multiples of this."""
NARROWEST = 128
"""Below this width scaling costs more than the product saves."""


def check_device(training: Training) -> None:
    """Whether this machine can do what the precision asks for, before anything is loaded.

    Raises:
        ConfigError: FP8 on the CPU or on a GPU without it.
    """
    if training.precision is not Precision.FP8:
        return
    found = "the CPU"
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if torch.version.cuda and (major, minor) >= OLDEST:
            return
        found = f"{torch.cuda.get_device_name()} (compute capability {major}.{minor})"
    raise ConfigError(
        "training.precision FP8 needs NVIDIA GPUs of compute capability 8.9 or later, such as "
        f"L4, L40S, H100 or B200; this container has {found}",
        "use precision BF16, or nodes with such GPUs",
    )


def use_float8(model: PreTrainedModel) -> None:
    """Let the linear layers of the model's blocks compute in 8 bits, in place.

    Raises:
        ConfigError: the model has none that could.
    """
    wide = [
        module
        for layer in layers_of(model)
        for name, module in layer.named_modules()
        if type(module) is nn.Linear and "lora_" not in name and _suits(module)
    ]
    if not wide:
        raise ConfigError(
            f"training.precision FP8: {type(model).__name__} has no linear layers of at least "
            f"{NARROWEST} features in multiples of {MULTIPLE}",
            "use precision BF16",
        )
    for module in wide:
        module.__class__ = Float8Linear  # keeps weights, names and whatever else refers to it


def _suits(linear: nn.Linear) -> bool:
    sizes = (linear.in_features, linear.out_features)
    return all(size >= NARROWEST and size % MULTIPLE == 0 for size in sizes)


class Float8Linear(nn.Linear):
    """A linear layer whose products are computed in 8 bits; its result is bfloat16."""

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Shape [..., in] to [..., out]."""
        rows = input.flatten(0, -2)
        missing = -rows.shape[0] % MULTIPLE  # rows are summed over in the gradient of the weight
        product: torch.Tensor = _Product.apply(pad(rows, (0, 0, 0, missing)), self.weight)
        product = product[: rows.shape[0]].view(*input.shape[:-1], self.out_features)
        bias: torch.Tensor | None = self.bias
        return product if bias is None else product + bias.to(product.dtype)


class _Product(torch.autograd.Function):
    """rows @ weight.T, and its gradients."""

    @staticmethod
    @override
    def forward(ctx, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def] # noqa: ANN001
        rows8, rows_scale = scaled(rows, FORWARD)
        weight8, weight_scale = scaled(weight, FORWARD)
        # Not weight8: of a model in parts every rank would keep the whole of it until the backward
        # pass, which gathers the weights again anyway.
        ctx.save_for_backward(rows8, rows_scale, weight, weight_scale)
        ctx.rows_dtype = rows.dtype
        return multiply(
            rows8, weight8.t(), rows_scale, weight_scale, torch.bfloat16, use_fast_accum=True
        )

    @staticmethod
    @override
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[no-untyped-def] # noqa: ANN001
        rows8, rows_scale, weight, weight_scale = ctx.saved_tensors
        gradient8, scale = scaled(gradient, BACKWARD)
        of_rows = of_weight = None
        if ctx.needs_input_grad[0]:
            weight8 = _by_column(cast(weight, weight_scale, FORWARD))
            of_rows = multiply(gradient8, weight8, scale, weight_scale, torch.bfloat16)
            of_rows = of_rows.to(ctx.rows_dtype)
        if ctx.needs_input_grad[1]:
            turned = gradient8.t().contiguous()
            of_weight = multiply(turned, _by_column(rows8), scale, rows_scale, torch.bfloat16)
            of_weight = of_weight.to(weight.dtype)
        return of_rows, of_weight


def scaled(tensor: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor in 8 bits, and the float32 factor of shape [] that gives its values back."""
    factor = tensor.abs().amax().float().clamp(min=1e-12) / torch.finfo(dtype).max
    return cast(tensor, factor, dtype), factor


def cast(tensor: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor in 8 bits, divided by a factor that `scaled` has found."""
    largest = torch.finfo(dtype).max
    # Rounding can step over the largest value, and what is too large becomes NaN.
    return (tensor.float() / factor).clamp(-largest, largest).to(dtype)


def multiply(  # noqa: PLR0913 - as torch has it
    left: torch.Tensor,
    right: torch.Tensor,
    left_scale: torch.Tensor,
    right_scale: torch.Tensor,
    dtype: torch.dtype,
    *,
    use_fast_accum: bool = False,
) -> torch.Tensor:
    """Product of scaled 8-bit matrices; left lies by rows, right by columns.

    Sums may be less exact (`use_fast_accum`) where it does no harm: forward, as torchao has it.
    """
    return torch._scaled_mm(  # noqa: SLF001
        left, right, left_scale, right_scale, out_dtype=dtype, use_fast_accum=use_fast_accum
    )


def _by_column(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.t().contiguous().t()
