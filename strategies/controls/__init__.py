"""Controls: as many trained parameters as LoSA, without what LoSA claims to use."""
