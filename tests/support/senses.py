"""Tiny models and rows for the tests of the tasks on images and sound."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

RATE = 16_000
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "patch_size": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY_MAE = {
    **TINY_VIT,
    "model_type": "vit_mae",
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 96,
}


def chosen(
    split: Path,
    path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any] | None],
    *,
    most: int = 10**6,
) -> str:
    """Write a list of a split's rows: those that are kept, as they are changed."""
    lines = (split / "metadata.jsonl").read_text().splitlines()
    rows = [row for line in lines if (row := change(json.loads(line))) is not None][:most]
    for row in rows:
        row["file_name"] = str(split / row["file_name"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_of(folder: Path, **fields: Any) -> dict[str, Any]:
    """A run that saves only at the end of an epoch."""
    return {
        "name": folder.name,
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "1h"},
        "output": {"uri": str(folder / "model")},
        **fields,
    }


def training(**fields: Any) -> dict[str, Any]:
    """Small batches in float32, at a rate for models of a few thousand weights."""
    rate = fields.pop("rate", 0.002)
    optimizer = {"learningRate": rate}
    return {"globalBatchSize": 16, "precision": "FP32", "optimizer": optimizer, **fields}


def image_model(folder: Path, *, side: int = 16) -> Path:
    """A ViT with fresh weights."""
    torch.manual_seed(5)
    fields: dict[str, Any] = {**TINY_VIT, "image_size": side}
    del fields["model_type"]
    ViTModel(ViTConfig(**fields)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def sound_model(folder: Path, **changes: Any) -> Path:
    """A wav2vec 2.0 with fresh weights: a frame of 20 ms."""
    torch.manual_seed(5)
    config = Wav2Vec2Config(
        **{
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "conv_dim": (32, 32, 64),
            "conv_stride": (20, 4, 4),
            "conv_kernel": (40, 8, 4),
            "num_conv_pos_embeddings": 15,
            "num_conv_pos_embedding_groups": 4,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "feat_proj_dropout": 0.0,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "final_dropout": 0.0,
            "mask_time_prob": 0.0,
            "classifier_proj_size": 64,
            **changes,
        }
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    extractor().save_pretrained(folder)
    return folder


def extractor() -> Any:
    """Normalises clips and masks what pads them."""
    build: Any = Wav2Vec2FeatureExtractor
    return build(sampling_rate=RATE, do_normalize=True, return_attention_mask=True)


def quick_detector(folder: Path) -> Path:
    """An RT-DETR with fresh weights: it learns in hundreds of steps, YOLOS in ten thousands."""
    torch.manual_seed(5)
    width, channels = 48, [16, 32, 48, 64]
    backbone: Any = RTDetrResNetConfig
    config = RTDetrConfig(
        backbone_config=backbone(
            embedding_size=16,
            hidden_sizes=channels,
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        freeze_backbone_batch_norms=False,
        encoder_in_channels=channels[1:],
        encoder_hidden_dim=width,
        encoder_ffn_dim=2 * width,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=width,
        decoder_in_channels=[width] * 3,
        decoder_ffn_dim=2 * width,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_n_points=2,
        num_queries=12,
        num_denoising=20,
    )
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def detection_model(folder: Path, *, side: int = 48) -> Path:
    """A YOLOS with fresh weights."""
    torch.manual_seed(5)
    config = YolosConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=[side, side],
        patch_size=6,
        num_detection_tokens=6,
        use_mid_position_embeddings=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = YolosForObjectDetection(config)
    # transformers starts these at zero, where no token differs from another: it learns, but slowly.
    with torch.no_grad():
        model.vit.embeddings.detection_tokens.normal_()
        model.vit.embeddings.position_embeddings.normal_()
    model.save_pretrained(folder)
    YolosImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
