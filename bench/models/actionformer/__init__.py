"""The head: ActionFormer (Zhang et al., ECCV 2022)."""

from bench.models.actionformer.model import ActionFormer as ActionFormer
