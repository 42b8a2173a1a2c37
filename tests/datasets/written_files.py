"""Run in a process of its own: generate small data sets and print the digests of all that was written."""

import hashlib
import os
import sys
from pathlib import Path

from small import SMALL, SMALL_SYNTHETIC


def main() -> None:
    """Print a line for every file: its name and the SHA-256 of its bytes."""
    folder, workers, imported = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if disabled := os.environ.get("NPY_DISABLE_CPU_FEATURES"):
        from numpy._core._multiarray_umath import __cpu_features__

        assert not any(__cpu_features__.get(name) for name in disabled.split())
    if imported == "torch":
        import torch

        # Used, too: it starts its threads and chooses its kernels only then.
        print((torch.ones(256, 256) @ torch.ones(256, 256)).sum().item(), file=sys.stderr)
    from datasets import synthetic
    from datasets.miniature import MiniatureConfig, generate, generate_source
    from datasets.miniature.writing import file_name, write_video

    # Longer than the small ones, in which what the encoder should not read does not always show.
    for index in range(2):
        write_video(MiniatureConfig(), "target", folder, "training", index)
        path = folder / file_name("training", index)
        print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    synthetic.write_video(synthetic.SyntheticConfig(), folder, "tuning", 0)
    path = folder / file_name("tuning", 0)
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    made_folders = [make(SMALL, folder, workers=workers) for make in (generate, generate_source)]
    for made in (*made_folders, synthetic.generate(SMALL_SYNTHETIC, folder, workers=workers)):
        for path in sorted(made.rglob("*.*")):
            if path.is_file():
                print(path.relative_to(folder), hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
