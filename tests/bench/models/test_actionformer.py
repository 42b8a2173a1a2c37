"""The head against the official model's numbers, and its parts against plain formulas."""

from __future__ import annotations

import math

import pytest
import seeded
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.io.errors import InputError
from bench.models.actionformer.config import HeadConfig, head_config
from bench.models.actionformer.layers import AffineDropPath, local_attention
from bench.models.actionformer.losses import center_diou_loss, sigmoid_focal_loss
from bench.models.actionformer.model import ActionFormer
from bench.models.actionformer.points import assign, level_points

CASES = ["actionformer_local", "actionformer_global"]


def golden_head(name: str) -> ActionFormer:
    case = seeded.case(name)
    head = ActionFormer(head_config(case["config"])).eval()
    assert list(head.state_dict()) == list(case["shapes"]) or set(head.state_dict()) == set(case["shapes"])
    head.load_state_dict(seeded.weights(case["seed"], case["shapes"]), strict=True)
    return head


def small_config(**changes: object) -> HeadConfig:
    settings = {"input_dim": 6, "num_classes": 3, "embd_dim": 8, "fpn_dim": 8, "head_dim": 8, "n_head": 2}
    return head_config(settings | {"max_seq_len": 64} | changes)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_points_agree_with_the_official_model(name: str) -> None:
    case, expected, head = seeded.case(name), seeded.arrays(name), golden_head(name)
    for seed, length in zip(case["input_seeds"], case["lengths"], strict=True):
        features = seeded.inputs(seed, (case["config"]["input_dim"], length))[None]
        with torch.no_grad():
            outputs = head(features, torch.ones(1, length, dtype=torch.bool))
        for level, (logits, offsets, mask) in enumerate(outputs):
            stem = f"len{length}_"
            for got, kind in ((logits[0].T, "cls"), (offsets[0].T, "off")):
                wanted = torch.from_numpy(expected[f"{stem}{kind}{level}"])
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5)
            assert torch.equal(mask[0], torch.from_numpy(expected[f"{stem}mask{level}"]))
        for level, points in enumerate(head.points(outputs)):
            assert torch.equal(points, torch.from_numpy(expected[f"points{level}"]))


@pytest.mark.parametrize("name", CASES)
def test_losses_agree_with_the_official_model(name: str) -> None:
    case, head = seeded.case(name), golden_head(name)
    features = torch.zeros(2, case["config"]["input_dim"], max(case["lengths"]))
    mask = torch.zeros(2, max(case["lengths"]), dtype=torch.bool)
    for row, (seed, length) in enumerate(zip(case["input_seeds"], case["lengths"], strict=True)):
        features[row, :, :length] = seeded.inputs(seed, (features.shape[1], length))
        mask[row, :length] = True
    losses = head.loss(
        head(features, mask),
        [torch.tensor(each) for each in case["segments"]],
        [torch.tensor(each) for each in case["labels"]],
    )
    assert losses.cls.item() == pytest.approx(case["losses"]["cls_loss"], rel=1e-4)
    assert losses.reg.item() == pytest.approx(case["losses"]["reg_loss"], rel=1e-4)
    assert losses.total.item() == pytest.approx(case["losses"]["final_loss"], rel=1e-4)
    head.reset_loss_normalizer()
    assert head.loss_normalizer.item() == 100


@pytest.mark.parametrize("reach", [1, 4, 9])
@pytest.mark.parametrize("steps", [3, 18, 50])
@pytest.mark.parametrize("relative", [False, True])
def test_local_attention_is_dense_attention_with_a_band(reach: int, steps: int, relative: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, steps, 4, dtype=torch.float64).unbind(0)
    valid = torch.ones(2, steps, dtype=torch.bool)
    valid[1, steps // 2 :] = False
    bias = torch.randn(3, 2 * reach + 1, dtype=torch.float64) if relative else None
    got = local_attention(query, key, value, valid, reach, bias)
    scores = query @ key.transpose(-1, -2) / math.sqrt(4)
    for row in range(steps):
        for column in range(steps):
            if abs(row - column) > reach:
                scores[:, :, row, column] = -math.inf
            elif bias is not None:
                scores[:, :, row, column] += bias[:, column - row + reach]
    scores = scores.masked_fill(~valid[:, None, None], -math.inf)
    wanted = scores.softmax(dim=-1) @ value
    rows = valid[:, None, :, None].expand_as(got)
    torch.testing.assert_close(got[rows], wanted[rows], rtol=1e-10, atol=1e-12)
    assert got.isfinite().all()


@pytest.mark.parametrize("window", [-1, 5, (-1, 3, 5, 7, 9, 1)])
@pytest.mark.parametrize("names", [{}, {"use_abs_pe": True, "use_rel_pe": True}])
def test_padding_changes_nothing_that_is_valid(window: object, names: dict[str, bool]) -> None:
    torch.manual_seed(0)
    head = ActionFormer(small_config(n_mha_win_size=window, max_seq_len=64, **names)).eval()
    features = torch.randn(1, 6, 64)
    mask = torch.arange(64)[None] < 37
    changed = torch.where(mask[:, None], features, 100.0)
    for first, second in zip(
        head(features * mask[:, None], mask), head(changed * mask[:, None], mask), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    short = head(features[:, :, :37], mask[:, :37])
    for first, second in zip(head(features * mask[:, None], mask), short, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_longer_sequences_are_padded_to_the_divisor() -> None:
    config = small_config(n_mha_win_size=5)
    assert config.divisor == 128
    head = ActionFormer(config).eval()
    outputs = head(torch.randn(1, 6, 70), torch.ones(1, 70, dtype=torch.bool))
    assert [logits.shape[1] for logits, _, _ in outputs] == [128, 64, 32, 16, 8, 4]


def test_everything_trains_and_nothing_is_infinite() -> None:
    torch.manual_seed(0)
    head = ActionFormer(small_config(n_mha_win_size=5, use_rel_pe=True)).train()
    features, mask = torch.randn(2, 6, 64), torch.ones(2, 64, dtype=torch.bool)
    mask[1, 3:] = False
    segments = [torch.tensor([[3.0, 20.0], [3.0, 3.5], [40.0, 63.0]]), torch.zeros(0, 2)]
    labels = [torch.tensor([0, 1, 2]), torch.zeros(0, dtype=torch.long)]
    for _ in range(2):  # two graphs alive at once, as in gradient accumulation
        losses = head.loss(head(features * mask[:, None], mask), segments, labels)
        second = head.loss(head(features * mask[:, None], mask), segments, labels)
        (losses.total + second.total).backward()
    silent = {
        name
        for name, parameter in head.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    }
    # A level without a reporting point moves no scale; softmax ignores what all keys share.
    assert {name for name in silent if "reg_head.scale" not in name and "attn.key.bias" not in name} == set()


def test_a_batch_without_instances_has_a_finite_loss() -> None:
    head = ActionFormer(small_config())
    outputs = head(torch.randn(1, 6, 64), torch.ones(1, 64, dtype=torch.bool))
    losses = head.loss(outputs, [torch.zeros(0, 2)], [torch.zeros(0, dtype=torch.long)])
    losses.total.backward()
    assert losses.reg.item() == 0
    assert losses.cls.item() > 0


def test_traces_on_fake_tensors() -> None:
    with FakeTensorMode():
        head = ActionFormer(small_config(n_mha_win_size=5, use_abs_pe=True, use_rel_pe=True))
        outputs = head(torch.randn(2, 6, 64), torch.ones(2, 64, dtype=torch.bool))
        segments = [torch.rand(3, 2), torch.rand(1, 2)]
        head.loss(
            outputs, segments, [torch.zeros(3, dtype=torch.long), torch.zeros(1).long()]
        ).total.backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


def test_assignment_by_hand() -> None:
    points = torch.cat(level_points([8, 4], [1, 2], [(0, 4), (4, 100)], torch.device("cpu")))
    segments = [torch.tensor([[0.0, 6.0], [2.0, 5.0], [2.0, 5.0005]])]
    targets = assign(points, segments, [torch.tensor([0, 1, 2])], 3, radius=1.5)
    fine = targets.classes[0, :8]
    assert fine[3].tolist() == [0, 1, 1]  # the two shortest, which differ by less than a thousandth
    assert fine[2].tolist() == [1, 0, 0]  # on the edge of the short ones, near the centre of the long one
    assert fine[0].sum() == 0
    assert targets.offsets[0, 3].tolist() == [1.0, 2.0]
    coarse = targets.classes[0, 8:]
    assert coarse.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert targets.offsets[0, 9].tolist() == [1.0, 2.0]  # in units of the stride
    everywhere = assign(points, segments, [torch.tensor([0, 1, 2])], 3, center_sample="none")
    assert everywhere.classes[0, :8].sum(dim=0).tolist() == [1, 2, 3]


def test_loss_formulas_by_hand() -> None:
    logits, targets = torch.tensor([0.3, -1.2]), torch.tensor([1.0, 0.0])
    probability = logits.sigmoid()
    wanted = torch.stack(
        (
            -0.25 * (1 - probability[0]) ** 2 * probability[0].log(),
            -0.75 * probability[1] ** 2 * (1 - probability[1]).log(),
        )
    )
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets), wanted)
    got = center_diou_loss(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
    # [-2, 2] and [-1, 4]: overlap 3, union 6, hull 6, centres 1.5 apart
    torch.testing.assert_close(got, torch.tensor([1 - 3 / 6 + (1.5 / 6) ** 2]))


def test_detections_decode_the_best_points() -> None:
    head = ActionFormer(small_config(test_cfg={"pre_nms_topk": 1, "pre_nms_thresh": 0.2}))
    outputs = head(torch.zeros(1, 6, 64), torch.ones(1, 64, dtype=torch.bool))
    rigged = []
    for level, (logits, offsets, mask) in enumerate(outputs):
        logits, offsets = torch.full_like(logits, -9), torch.zeros_like(offsets)
        if level == 1:
            logits[0, 5, 2], logits[0, 6, 1] = 2.0, 1.0
            offsets[0, 5] = torch.tensor([1.0, 3.0])
        rigged.append((logits, offsets, mask))
    ((segments, scores, labels),) = head.detections(tuple(rigged))
    assert segments.tolist() == [[8.0, 16.0]]
    assert labels.tolist() == [2]
    assert scores.tolist() == pytest.approx([torch.tensor(2.0).sigmoid().item()])


def test_affine_drop_path_keeps_the_mean_and_is_off_in_eval() -> None:
    torch.manual_seed(0)
    layer = AffineDropPath(1, 0.25)
    torch.nn.init.ones_(layer.scale)
    output = layer.train()(torch.ones(20000, 1, 1))
    assert output.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert output.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(3, 1, 2)), torch.ones(3, 1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 8}, "embed_dim: no such setting, allowed are input_dim"),
        (
            {"train_cfg": {"drop_path": 0.1}},
            "train_cfg.drop_path: no such setting, allowed are center_sample",
        ),
        ({"fpn_type": "fpn"}, "fpn_type 'fpn': allowed is identity"),
        ({"max_seq_len": 50}, "max_seq_len 50: allowed are multiples of 32"),
        ({"n_mha_win_size": [3, 3]}, "n_mha_win_size: 2 sizes"),
        ({"regression_range": [[0, 4]]}, "regression_range: 1 ranges, allowed are 6"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        small_config(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_input_is_named() -> None:
    head = ActionFormer(small_config())
    with pytest.raises(InputError, match=r"allowed is \(B, 6, T\)"):
        head(torch.zeros(1, 5, 64), torch.ones(1, 64, dtype=torch.bool))
    with pytest.raises(InputError, match="allowed is bool"):
        head(torch.zeros(1, 6, 64), torch.ones(1, 64))
