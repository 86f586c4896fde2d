"""Ways to tune a sequence model for a new domain: everything, only the item side, or low-rank adapters."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from recolam.contracts.dataset import TokenisedDataset
from recolam.errors import ConfigError
from recolam.seeding import derive
from recolam.sequence.config import TrainingConfig
from recolam.sequence.freezing import freeze
from recolam.sequence.model import SequenceModel
from recolam.sequence.training import train_sequence_model

METHODS = ("full", "head", "lora")

# Linear maps inside the blocks of the supported backbones.
_ADAPTED = {
    "native": ["query_key_value", "attention_out", "perceptron_in", "perceptron_out"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
}


def tune(
    method: str, model: SequenceModel, dataset: TokenisedDataset, config: TrainingConfig, *, rank: int, seed: int,
    scratch: Path,
) -> SequenceModel:  # fmt: skip
    """Tunes `model` on the dataset's train events and returns it (possibly as another object), in eval mode.

    full: all weights. head: item vectors and the text projection; the transformer stays as it was. lora: as head,
    plus low-rank updates of the blocks' linear maps, merged at the end (Hu et al. 2021, arXiv:2106.09685).

    Raises:
        ConfigError: an unknown method, LoRA without peft installed, or `freeze` beside a method that freezes itself.
    """
    if method not in METHODS:
        raise ConfigError(f"tuning method {method!r} is not one of {', '.join(METHODS)}")
    if method != "full" and config.freeze != "none":
        raise ConfigError(f"freeze {config.freeze!r} goes with method 'full' alone; {method!r} says itself what trains")
    seed, scratch, label = derive(seed, method), scratch / method, f"transfer, {method}"
    if method == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "adapters"))
            adapted, inner, merge = _with_adapters(model, rank=rank)
        freeze(inner(adapted), "all-but-items")
        train_sequence_model(adapted, dataset, config, seed=seed, scratch=scratch, label=label, inner=inner)
        return merge(adapted).requires_grad_(True).eval()
    if method == "head":
        freeze(model, "all-but-items")
    train_sequence_model(model, dataset, config, seed=seed, scratch=scratch, label=label)
    return model.requires_grad_(True)


def _with_adapters(
    model: SequenceModel, *, rank: int
) -> tuple[nn.Module, Callable[[nn.Module], SequenceModel], Callable[[nn.Module], SequenceModel]]:
    """The adapted model, the way to the sequence model inside it, and the way back to a plain one."""
    try:
        from peft import LoraConfig, get_peft_model  # an extra: not everybody tunes by LoRA
    except ImportError as error:
        raise ConfigError("LoRA tuning needs peft: install recolam[lora]") from error
    name = model.config.backbone
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_ADAPTED[name], fan_in_fan_out=name == "gpt2"
    )
    return get_peft_model(model, config), lambda m: m.base_model.model, lambda m: m.merge_and_unload()
