"""``python -m bench``: list the commands."""

COMMANDS = {
    "run": "compare strategies on one backbone and one data set",
    "report": "rebuild tables and figures from the records",
    "verify": "check that tables contain only comparable rows, and that records are intact",
    "status": "show the progress of the runs of a results folder",
    "plan": "predict peak memory without a GPU, and what fits a card",
    "doctor": "check annotations and videos before a run",
    "measure": "measure memory and time of real training steps, and compare with the forecast",
    "predict": "detect the actions in one of your own videos, by a run with kept weights",
    "evaluate": "compute the mAP of a submission file against a ground-truth file",
    "papers": "run the papers' ablations and configurations on the embedded data set",
    "tune": "choose hyper-parameters on the tuning videos",
    "convert": "convert published weights in Python packages to checkpoints",
    "pretrain": "train vit-t's weights on the miniature's source clips",
    "speed": "time the components of the benchmark",
}

if __name__ == "__main__":
    for command, does in COMMANDS.items():
        print(f"python -m bench.{command:<12} {does}")
