import dataclasses
from pathlib import Path

import pytest
import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.errors import ConfigError
from recolam.sequence.config import TrainingConfig
from recolam.sequence.freezing import freeze, frozen
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.training import train_sequence_model
from recolam.transfer.tuning import tune
from tests.planted import cyclic_dataset

TRAINING = TrainingConfig(
    epochs=2, batch_size=16, max_len=12, learning_rate=5e-3, warmup_steps=1, tasks={"rating": 0.5}, average=0.5
)  # fmt: skip
BLOCKS = {"native": "backbone.blocks.{}.", "gpt2": "backbone.inner.h.{}.", "llama": "backbone.inner.layers.{}."}
NORM = {"native": "backbone.norm.", "gpt2": "backbone.inner.ln_f.", "llama": "backbone.inner.norm."}
IDLE = ("value_head.", "backbone.inner.wte.", "backbone.inner.embed_tokens.")  # no objective reads them


def rated(users: int = 24) -> TokenisedDataset:
    dataset = cyclic_dataset(users=users)
    return dataclasses.replace(dataset, event_value_E=(dataset.event_item_E % 2).astype("float32"))


def new_model(dataset: TokenisedDataset, backbone: str) -> SequenceModel:
    torch.manual_seed(0)
    config = SequenceConfig(
        tokens=dataset.tokens, text_features=8, backbone=backbone, time="gaps", max_len=12, width=16, blocks=3, heads=2,
        dropout=0.1, classifiers={"rating": 2},
    )  # fmt: skip
    model = SequenceModel(config)
    model.item_text.copy_(torch.from_numpy(dataset.item_text_VF))
    return model


def expected(policy: str, backbone: str, name: str) -> bool:
    """Whether a parameter trains, written down once more, by hand."""
    block = BLOCKS[backbone].format
    if policy == "none":
        return True
    if policy == "embeddings":
        return name.startswith(("backbone.", "value_head", "classifiers"))
    if policy == "all-but-top-2":
        return name.startswith((block(1), block(2), NORM[backbone], "value_head", "classifiers"))
    if policy == "all-but-heads":
        return name.startswith(("value_head", "classifiers"))
    return name in ("item_vectors.weight", "text_projection.weight") or name.startswith("classifiers")


@pytest.mark.parametrize("backbone", ["native", "gpt2", "llama"])
@pytest.mark.parametrize("policy", ["none", "embeddings", "all-but-top-2", "all-but-heads", "all-but-items"])
def test_training_moves_what_the_policy_leaves_free_and_no_bit_else(tmp_path: Path, policy: str, backbone: str) -> None:
    dataset = rated()
    model = new_model(dataset, backbone)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    config = dataclasses.replace(TRAINING, freeze=policy)
    train_sequence_model(model, dataset, config, seed=0, scratch=tmp_path)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    wanted = {name for name in before if expected(policy, backbone, name) and not name.startswith(IDLE)}
    assert moved == wanted
    assert all(parameter.requires_grad for parameter in model.parameters())  # frozen for this training alone


def test_the_count_is_that_of_what_trains() -> None:
    model = new_model(rated(), "native")
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert freeze(model, "none") == everything
    assert freeze(model, "all-but-heads") == 17 + 2 * 17
    with frozen(model, "all-but-items") as count:
        assert count == model.item_vectors.weight.numel() + 8 * 16 + 2 * 17
    assert freeze(model, "none") == 17 + 2 * 17  # as it was before


@pytest.mark.parametrize("policy", ["all", "all-but-top-0", "all-but-top-", "all-but-top-N", ""])
def test_unknown_policies_are_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match="is not one of none, embeddings"):
        freeze(new_model(rated(), "native"), policy)
    with pytest.raises(ConfigError, match="is not one of none, embeddings"):
        TrainingConfig(freeze=policy)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    dataset = rated()
    with pytest.raises(ConfigError, match="'all-but-top-4': the model has 3 blocks"):
        freeze(new_model(dataset, "gpt2"), "all-but-top-4")
    with pytest.raises(ConfigError, match="without a task trains nothing"):
        TrainingConfig(freeze="all-but-heads")
    config = dataclasses.replace(TRAINING, freeze="embeddings")
    with pytest.raises(ConfigError, match="'head' says itself what trains"):
        tune("head", new_model(dataset, "native"), dataset, config, rank=2, seed=0, scratch=tmp_path)


def test_adapters_train_beside_the_items(tmp_path: Path) -> None:
    dataset = rated()
    model = new_model(dataset, "native")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    tuned = tune("lora", model, dataset, TRAINING, rank=2, seed=0, scratch=tmp_path)
    moved = {name for name, value in tuned.named_parameters() if not torch.equal(value, before[name])}
    maps = ("query_key_value", "attention_out", "perceptron_in", "perceptron_out")
    adapted = {f"backbone.blocks.{row}.{name}.weight" for row in range(3) for name in maps}
    items = {"item_vectors.weight", "text_projection.weight"}
    assert moved == adapted | items | {"classifiers.rating.weight", "classifiers.rating.bias"}
