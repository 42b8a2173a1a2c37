"""Make ``tests/golden/actionformer_training.json``: 20 training steps of the official ActionFormer release.

    python -m tests.reference.actionformer_training CHECKOUT

CHECKOUT is a clone of github.com/happyharrycn/actionformer_release. Its model, optimizer, scheduler and
clipping run as its ``train_one_epoch`` runs them, on made features: no file of data, no GPU and
no C++ NMS is needed. Nothing of the release is copied: modules that training does not use are replaced by
empty ones.
"""

from __future__ import annotations

import copy
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "tests" / "golden" / "actionformer_training.json"
SEED = 61
STEPS_PER_EPOCH, EPOCHS, WARMUP_EPOCHS = 4, 4, 1
STEPS = STEPS_PER_EPOCH * (EPOCHS + WARMUP_EPOCHS)
CLASSES, CHANNELS, LONGEST = 3, 24, 64
MODEL: dict[str, Any] = {
    "input_dim": CHANNELS,
    "num_classes": CLASSES,
    "max_seq_len": LONGEST,
    "backbone_arch": [2, 2, 3],
    "regression_range": [[0, 4], [4, 8], [8, 16], [16, 10000]],
    "n_mha_win_size": 5,
    "embd_dim": 32,
    "fpn_dim": 32,
    "head_dim": 32,
}
TRAIN = {"init_loss_norm": 20, "clip_grad_l2norm": 1.0, "droppath": 0.0}
RATE, DECAY = 1e-3, 0.05


def windows() -> list[list[dict[str, Any]]]:
    """Return the windows of every step: the seed and length of the features, segments, labels."""
    generator = np.random.default_rng(SEED)
    batches = []
    for step in range(STEPS):
        batch = []
        for row in range(2):
            length = int(generator.integers(40, LONGEST + 1))
            count = int(generator.integers(1, 4))
            starts = generator.uniform(0, length - 12, count)
            ends = starts + generator.uniform(2, 11, count)
            segments = np.stack((starts, ends), axis=1).round(3).tolist()
            labels = generator.integers(0, CLASSES, count).tolist()
            batch.append(
                {"seed": 1000 * step + row, "length": length, "segments": segments, "labels": labels}
            )
        batches.append(batch)
    return batches


def import_release(checkout: Path) -> None:
    """Make ``libs`` of the release importable without its compiled NMS and without joblib."""
    sys.path.insert(0, str(checkout))
    sys.path.insert(0, str(ROOT / "tests" / "bench" / "models"))
    sys.modules["nms_1d_cpu"] = types.ModuleType("nms_1d_cpu")
    joblib = types.ModuleType("joblib")
    joblib.Parallel = joblib.delayed = None  # type: ignore[attr-defined]
    sys.modules.setdefault("joblib", joblib)


def official_config(droppath: float) -> dict[str, Any]:
    """Return the release's defaults with the changes above, completed as its ``load_config`` does."""
    from libs.core.config import DEFAULTS

    config: dict[str, Any] = copy.deepcopy(DEFAULTS)
    model = {**config["model"], **MODEL}
    return {
        **model,
        "train_cfg": {**config["train_cfg"], **TRAIN, "droppath": droppath},
        "test_cfg": config["test_cfg"],
    }


def main(checkout: Path) -> None:
    import_release(checkout)
    import seeded
    from libs.modeling import make_meta_arch
    from libs.utils.train_utils import make_optimizer, make_scheduler

    options = {"type": "AdamW", "learning_rate": RATE, "weight_decay": DECAY, "warmup": True}
    options |= {"epochs": EPOCHS, "warmup_epochs": WARMUP_EPOCHS, "schedule_type": "cosine"}

    # The names that the release decays, with the layers of drop path, which only exist above zero.
    whole = make_meta_arch("LocPointTransformer", **official_config(0.1))
    names = {id(value): name for name, value in whole.named_parameters()}
    decaying, others = (
        sorted(names[id(value)] for value in group["params"])
        for group in make_optimizer(whole, options).param_groups
    )

    model = make_meta_arch("LocPointTransformer", **official_config(TRAIN["droppath"]))
    shapes = {name: list(value.shape) for name, value in model.named_parameters()}
    model.load_state_dict(seeded.weights(SEED, shapes), strict=False)
    optimizer = make_optimizer(model, options)
    scheduler = make_scheduler(optimizer, options, STEPS_PER_EPOCH)
    model.train()
    steps = []
    for batch in windows():
        videos = [
            {
                "feats": seeded.inputs(window["seed"], (CHANNELS, window["length"])),
                "segments": torch.tensor(window["segments"]),
                "labels": torch.tensor(window["labels"]),
            }
            for window in batch
        ]
        rate = scheduler.get_last_lr()[0]
        optimizer.zero_grad(set_to_none=True)
        losses = model(videos)
        losses["final_loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN["clip_grad_l2norm"])
        optimizer.step()
        scheduler.step()
        steps.append(
            {
                "learning_rate": rate,
                **{name: losses[f"{name}_loss"].item() for name in ("cls", "reg", "final")},
            }
        )
    content = {
        "model": {**MODEL, "train_cfg": TRAIN},
        "learning_rate": RATE,
        "weight_decay": DECAY,
        "warmup_steps": WARMUP_EPOCHS * STEPS_PER_EPOCH,
        "seed": SEED,
        "shapes": shapes,
        "windows": windows(),
        "steps": steps,
        "sums": {name: value.double().abs().sum().item() for name, value in model.named_parameters()},
        "decaying": decaying,
        "not_decaying": others,
    }
    OUTPUT.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")
    print(f"{OUTPUT}: {STEPS} steps, losses {steps[0]} to {steps[-1]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
