"""The video backbones."""
