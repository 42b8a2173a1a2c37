"""``python -m bench``: name the commands."""

COMMANDS = {
    "run": "compare strategies on one backbone and one data set",
    "report": "rebuild tables and figures from the records",
    "verify": "check that tables hold only what may be compared, and that records are intact",
    "status": "how far the runs of a results folder are",
    "plan": "predict peak memory, without a GPU, and what fits a card",
    "doctor": "check annotations and videos before a run",
    "measure": "memory and time of real training steps beside their forecast",
    "predict": "the actions of one video of your own, by a run whose weights were kept",
    "evaluate": "mAP of a submission file against a ground-truth file",
    "tune": "choose hyper-parameters on the tuning videos",
    "convert_i3d": "turn the published I3D weights into a checkpoint",
    "pretrain": "train vit-t's weights on the miniature's source clips",
    "speed": "time the parts of the bench",
}

if __name__ == "__main__":
    for command, does in COMMANDS.items():
        print(f"python -m bench.{command:<12} {does}")
