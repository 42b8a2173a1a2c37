"""Evaluation of detections: NMS, mean average precision, diagnosis. Importing it does not load torch."""

from bench.detection.diagnosis import diagnose
from bench.detection.evaluation import Evaluation, evaluate
from bench.detection.external_classifier import ClassScores, classifier_name, fuse, read_class_scores
from bench.detection.nms import soft_nms
from bench.detection.recall import average_recall
from bench.detection.segments import Segments, without_duplicates
from bench.detection.submission import read_ground_truth, read_submission, write_submission

__all__ = [
    "ClassScores",
    "Evaluation",
    "Segments",
    "average_recall",
    "classifier_name",
    "diagnose",
    "evaluate",
    "fuse",
    "read_class_scores",
    "read_ground_truth",
    "read_submission",
    "soft_nms",
    "without_duplicates",
    "write_submission",
]
